import { useChat } from "@ai-sdk/react";
import type { ChatapiMessage, ChatapiTransport } from "@chatapi/ai-sdk";
import { answersAreReady, problemOf, textOf } from "@chatapi/ai-sdk";
import type { FileUIPart } from "ai";
import { useCallback, useEffect, useRef, useState } from "react";

import { type Alternative, alternativesOf } from "./alternatives.ts";
import { Composer } from "./Composer.tsx";
import { ToEnd } from "./icons.tsx";
import { MessageView } from "./Message.tsx";
import { useOnline, useReturn, useSession } from "./parts.tsx";
import { carryOut, OWN_TOOLS } from "./tools.tsx";
import { Trouble } from "./Trouble.tsx";

const SUGGESTIONS = ["Add milk and bread to my list", "What's left?", "Remind me to call mom"];
const ATTEMPTS = 6; // to read on in a stream that was lost; each waits twice as long as the one before
const FIRST_WAIT = 500;
const FRAME = 40; // milliseconds between two looks of an answer that grows

interface Props {
  transport: ChatapiTransport;
  history: ChatapiMessage[];
  onBegun: (conversationId: number) => void;
  /** Something has changed that the list of conversations may show. */
  onChanged: () => void;
  onToolUsed: () => void;
  onSignedOut: () => void;
}

export function Chat({ transport, history, onBegun, onChanged, onToolUsed, onSignedOut }: Props) {
  const session = useSession();
  const online = useOnline();
  const [draft, setDraft] = useState("");
  const [editing, setEditing] = useState(false);
  const [alternatives, setAlternatives] = useState<Alternative[]>([]);
  const [said, setSaid] = useState(""); // told to screen readers
  const whole = useRef(history); // the messages before `useChat` cuts them for an edit or another answer
  const attempts = useRef(0);
  const [queue, setQueue] = useState<Queued[]>([]); // written while an answer is given

  const { messages, setMessages, status, error, sendMessage, regenerate, resumeStream, addToolApprovalResponse, addToolOutput, stop } =
    useChat<ChatapiMessage>({
      transport,
      messages: history,
      resume: runs(history),
      throttle: FRAME,
      sendAutomaticallyWhen: answersAreReady,
      onToolCall: ({ toolCall }) => {
        if (!OWN_TOOLS.some((tool) => tool.name === toolCall.toolName)) return;
        const call = { tool: toolCall.toolName, toolCallId: toolCall.toolCallId };
        carryOut(toolCall.toolName, toolCall.input).then(
          (output) => addToolOutput({ ...call, output }),
          (failure: Error) => addToolOutput({ ...call, state: "output-error", errorText: failure.message }),
        );
      },
      onData: onChanged, // a title
      onError: restore,
      onFinish: ({ message, isAbort, isError }) => {
        if (isError) return;
        setSaid(isAbort ? "The answer was stopped." : message.metadata?.waiting ? "Your approval is asked for." : textOf(message));
        onChanged();
        void lookAtEarlierQuestions();
        void lookForAlternatives();
      },
    });
  const busy = status === "submitted" || status === "streaming";
  const last = messages.at(-1);
  const conversationId = last?.metadata?.conversation_id;
  const waits = last?.metadata?.waiting === true;
  const lost = error !== undefined && transport.lost(error);

  useEffect(() => {
    if (conversationId !== undefined) onBegun(conversationId);
  }, [conversationId, onBegun]);

  /** What the assistant does to tasks is seen beside the chat at once. */
  const outputs = messages.flatMap((message) => message.parts).filter((part) => "output" in part && part.output).length;
  useEffect(() => {
    if (outputs > 0) onToolUsed();
  }, [outputs, onToolUsed]);

  const lookForAlternatives = useCallback(async () => {
    if (transport.conversationId === undefined) return;
    setAlternatives(await alternativesOf(session, transport.conversationId).catch(() => []));
  }, [session, transport]);
  useEffect(() => void lookForAlternatives(), [lookForAlternatives]);

  /** A new message takes the place of what an earlier turn has asked for: show how that has ended. */
  async function lookAtEarlierQuestions() {
    if (!messages.slice(0, -1).some((message) => message.parts.some(asks))) return;
    const read = await transport.history().catch(() => undefined);
    if (read) setMessages(read);
  }

  /** What was refused has changed nothing: show the messages as they were, and give back what was written. */
  async function restore(failure: Error) {
    setSaid("");
    if (problemOf(failure)?.status === 401) onSignedOut();
    if (!transport.refused(failure)) return;
    const conflict = problemOf(failure)?.status === 409;
    setMessages(conflict ? await transport.history().catch(() => whole.current) : whole.current);
    setDraft((begun) => begun || (transport.sent?.message ?? ""));
  }

  const again = useCallback(() => {
    if (lost) void resumeStream();
    else void regenerate({ metadata: { again: true } });
  }, [lost, resumeStream, regenerate]);

  /** A stream that was lost is read on by itself; a message that never arrived is sent again when the network is back. */
  useEffect(() => {
    if (status === "streaming") attempts.current = 0;
    if (error === undefined || problemOf(error)?.turn_id !== undefined || !online) return;
    if (!lost && problemOf(error) !== undefined) return;
    if (attempts.current >= ATTEMPTS) return;
    const timer = setTimeout(again, FIRST_WAIT * 2 ** attempts.current++);
    return () => clearTimeout(timer);
  }, [error, lost, online, status, again]);

  useReturn(async () => {
    if (status !== "ready") return;
    const news = await transport.news().catch(() => undefined);
    if (news === undefined) return;
    setMessages(news);
    onChanged();
    if (runs(news)) void resumeStream();
  });

  function send(text: string, files: FileUIPart[] = []) {
    whole.current = messages;
    attempts.current = 0;
    setAlternatives([]);
    void sendMessage(text ? { text, files } : { files });
  }

  /** Send what was written meanwhile, the first first; after an error or a stop it is kept until somebody says so. */
  const next = queue[0];
  const free = status === "ready" && !waits && last?.metadata?.status !== "cancelled";
  useEffect(() => {
    if (!free || next === undefined) return;
    setQueue((all) => all.slice(1));
    send(next.text, next.files);
  }, [free, next]);

  async function interrupt(queued: Queued) {
    setQueue((all) => all.filter((each) => each !== queued));
    await stop(); // the transport ends the turn before it sends the next message
    send(queued.text, queued.files);
  }

  function edit(text: string) {
    whole.current = messages;
    const question = messages.findLast((message) => message.role === "user")!;
    setEditing(false);
    setAlternatives([]);
    void sendMessage({ text, files: question.parts.filter((part) => part.type === "file"), messageId: question.id });
  }

  function anotherAnswer() {
    whole.current = messages;
    void regenerate({ messageId: last!.id });
  }

  const scrolled = useStickToEnd(messages);
  const lastQuestion = messages.findLast((message) => message.role === "user")?.id;

  return (
    <div className="chat">
      <div className="scroller" ref={scrolled.ref} tabIndex={-1}>
        <div className="messages">
          {messages.length === 0 && <Welcome onPick={send} />}
          {messages.map((message, index) => (
            <MessageView
              key={message.id}
              message={message}
              live={busy && message === last}
              ended={messages[index + 1]?.role !== "assistant" ? message.metadata?.status : undefined}
              alternatives={message === last && !busy ? alternatives : NONE}
              onEdit={!busy && !waits && message.id === lastQuestion ? () => setEditing(true) : undefined}
              editing={editing && message.id === lastQuestion ? { save: edit, leave: () => setEditing(false) } : undefined}
              onAgain={!busy && !waits && message === last && message.role === "assistant" ? anotherAnswer : undefined}
              onApproval={(id, approved, reason) =>
                void addToolApprovalResponse(reason === undefined ? { id, approved } : { id, approved, reason })
              }
            />
          ))}
          {status === "submitted" && <p className="thinking" aria-hidden="true"><span /><span /><span /></p>}
          {queue.map((queued) => (
            <QueuedMessage
              key={queued.key}
              text={queued.text}
              onNow={() => void interrupt(queued)}
              onRemove={() => setQueue((all) => all.filter((each) => each !== queued))}
            />
          ))}
          {error && (
            <Trouble
              error={error}
              again={transport.refused(error) ? undefined : again}
              reconnecting={lost && attempts.current < ATTEMPTS}
            />
          )}
        </div>
      </div>
      <p className="visually-hidden" role="status" aria-live="polite">
        {busy ? "The assistant is answering." : said}
      </p>
      {!scrolled.atEnd && (
        <button type="button" className="to-end icon" aria-label="Go to the end" onClick={scrolled.toEnd}><ToEnd /></button>
      )}
      <Composer
        transport={transport}
        busy={busy}
        draft={draft}
        onDraft={setDraft}
        onSend={(text, files) => (busy ? setQueue((all) => [...all, { key: Math.random(), text, files }]) : send(text, files))}
        onStop={() => void transport.cancel().catch(() => {})}
        onEditLast={lastQuestion !== undefined && !busy && !waits ? () => setEditing(true) : undefined}
      />
    </div>
  );
}

const NONE: Alternative[] = [];

interface Queued {
  key: number;
  text: string;
  files: FileUIPart[];
}

/** A message that is sent when the answer before it has ended, or at once, in that answer's place. */
function QueuedMessage({ text, onNow, onRemove }: { text: string; onNow: () => void; onRemove: () => void }) {
  return (
    <article className="message mine queued" aria-label="Waits to be sent">
      <div className="said"><p dir="auto" className="plain">{text}</p></div>
      <footer>
        <small className="usage">Sent after this answer</small>
        <button type="button" className="quiet" onClick={onNow}>Send now</button>
        <button type="button" className="quiet" onClick={onRemove}>Remove</button>
      </footer>
    </article>
  );
}

function asks(part: ChatapiMessage["parts"][number]): boolean {
  return part.type === "dynamic-tool" && part.state === "approval-requested";
}

function runs(messages: ChatapiMessage[]): boolean {
  return messages.at(-1)?.metadata?.status === "running";
}

function Welcome({ onPick }: { onPick: (text: string) => void }) {
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

/** Follow an answer that grows, unless the reader has gone up. */
function useStickToEnd(messages: unknown) {
  const ref = useRef<HTMLDivElement>(null);
  const [atEnd, setAtEnd] = useState(true);
  const sticks = useRef(true);

  const toEnd = useCallback(() => ref.current?.scrollTo({ top: ref.current.scrollHeight }), []);
  useEffect(() => {
    const box = ref.current!;
    const look = () => {
      sticks.current = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
      setAtEnd(sticks.current);
    };
    box.addEventListener("scroll", look, { passive: true });
    const grown = new ResizeObserver(() => sticks.current && toEnd());
    grown.observe(box.firstElementChild!);
    return () => {
      box.removeEventListener("scroll", look);
      grown.disconnect();
    };
  }, [toEnd]);
  useEffect(() => {
    if (sticks.current) toEnd();
  }, [messages, toEnd]);
  return { ref, atEnd, toEnd };
}
