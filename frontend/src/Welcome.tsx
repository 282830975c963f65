const SUGGESTIONS = ["Add milk and bread to my list", "What's left?", "Remind me to call mom"];

export function Welcome({ onPick }: { onPick: (text: string) => void }) {
  return (
    <div className="welcome">
      <h2>What can I do for you?</h2>
      <p>Ask anything. The assistant that comes with the service keeps a list of tasks.</p>
      <ul>
        {SUGGESTIONS.map((text) => (
          <li key={text}>
            <button type="button" onClick={() => onPick(text)}>{text}</button>
          </li>
        ))}
      </ul>
    </div>
  );
}
