import { useChat } from "@ai-sdk/react";
import type { ChatapiMessage, ChatapiTransport } from "@chatapi/ai-sdk";
import { answersAreReady, callsToCarryOut, filesOf, problemOf, textOf } from "@chatapi/ai-sdk";
import type { FileUIPart } from "ai";
import { Fragment, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

import { type Alternative, alternativesOf } from "./alternatives.ts";
import { Composer } from "./Composer.tsx";
import { FileView } from "./files.tsx";
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
  onTasksUsed: () => void;
  /** The service does not take the token any more, and says why. */
  onSignedOut: (refused: string) => void;
}

export function Chat({ transport, history, onBegun, onChanged, onTasksUsed, onSignedOut }: Props) {
  const session = useSession();
  const online = useOnline();
  const [draft, setDraft] = useState("");
  const [editing, setEditing] = useState(false);
  const [alternatives, setAlternatives] = useState<Alternative[]>([]);
  const [said, setSaid] = useState(""); // told to screen readers
  const whole = useRef(history); // the messages before `useChat` cuts them for an edit or another answer
  const attempts = useRef(0);
  const carriedOut = useRef(new Set<string>()); // calls of the page's own tools
  const [queue, setQueue] = useState(transport.queued); // questions whose turns have not begun
  const [resuming, setResuming] = useState(false); // `status` does not tell while a stream is asked for
  const [queueing, setQueueing] = useState(0); // how many are on their way there
  const [unqueued, setUnqueued] = useState<Unqueued[]>([]);
  const arrival = useRef(Promise.resolve()); // they are queued in the order in which they were written

  const { messages, setMessages, status, error, sendMessage, regenerate, resumeStream, addToolApprovalResponse, addToolOutput, clearError } =
    useChat<ChatapiMessage>({
      transport,
      messages: history,
      resume: isUnderWay(history.at(-1)),
      throttle: FRAME,
      sendAutomaticallyWhen: answersAreReady,
      onData: onChanged, // a title
      onError: restore,
      onFinish: ({ message, isAbort, isError }) => {
        if (isError) return;
        setSaid(isAbort ? "The answer was stopped." : message.metadata?.waiting ? "Your approval is asked for." : textOf(message));
        onChanged();
        void lookAtEarlierQuestions();
        if (!transport.sent || transport.sent.anew) void lookForAlternatives();
      },
    });
  const last = messages.at(-1);
  const lost = error !== undefined && transport.lost(error);
  const reading = status === "submitted" || status === "streaming" || resuming;
  const busy = reading || (isUnderWay(last) && (error === undefined || lost));
  const conversationId = last?.metadata?.conversation_id;
  const waits = last?.metadata?.waiting === true;
  /** The page alone has what was written: the conversation as the service has it would take its place. */
  const unsent = error !== undefined && !lost && transport.turnId === undefined && !transport.refused(error);

  useEffect(() => {
    const kept = session.takeDraft();
    if (kept) setDraft(kept);
  }, [session]);

  /** Before anything of the answer is painted: who reloads as soon as it is seen finds its conversation again. */
  useLayoutEffect(() => {
    if (conversationId !== undefined) onBegun(conversationId);
  }, [conversationId, onBegun]);

  /** What the assistant does to tasks is seen beside the chat at once. */
  const outputs = messages.flatMap((message) => message.parts).filter(isDoneToTasks).length;
  useEffect(() => {
    if (outputs > 0) onTasksUsed();
  }, [outputs, onTasksUsed]);

  /** The page's own tools, each call once. */
  useEffect(() => {
    if (busy) return;
    for (const { toolName, toolCallId, input } of callsToCarryOut(last)) {
      if (carriedOut.current.has(toolCallId) || !OWN_TOOLS.some((tool) => tool.name === toolName)) continue;
      carriedOut.current.add(toolCallId);
      const call = { tool: toolName, toolCallId };
      carryOut(toolName, input).then(
        (output) => addToolOutput({ ...call, output }),
        (failure: Error) => addToolOutput({ ...call, state: "output-error", errorText: failure.message }),
      );
    }
  }, [busy, last, addToolOutput]);

  const resume = useCallback(() => {
    setResuming(true);
    void resumeStream().finally(() => setResuming(false));
  }, [resumeStream]);

  const lookForAlternatives = useCallback(async () => {
    if (transport.conversationId === undefined) return;
    setAlternatives(await alternativesOf(session, transport.conversationId).catch(() => []));
  }, [session, transport]);
  useEffect(() => void lookForAlternatives(), [lookForAlternatives]);

  /** Read the conversation, and show it unless the page has gone on meanwhile. Returns whether it has shown something. */
  async function show(read: () => Promise<ChatapiMessage[] | undefined> = () => transport.history()): Promise<boolean> {
    const before = transport.streams;
    const found = await read().catch(() => undefined);
    if (found === undefined || transport.streams !== before) return false;
    setMessages(found);
    setQueue(transport.queued);
    if (isUnderWay(found.at(-1))) resume();
    return true;
  }

  /** A new message takes the place of what an earlier turn has asked for: show how that has ended. */
  async function lookAtEarlierQuestions() {
    if (messages.slice(0, -1).some((message) => message.parts.some(asks))) await show();
  }

  /** What was refused has changed nothing: show the conversation as it is, or as it was, and give back what was written. */
  async function restore(failure: Error) {
    setSaid("");
    const problem = problemOf(failure);
    if (problem?.status === 401) return signInAgain(failure, transport.lost(failure) ? "" : transport.sent?.message);
    if (problem?.status === 404 && last?.metadata?.status === "queued" && (await show())) clearError(); // taken back elsewhere
    if (!transport.refused(failure)) return;
    const { answered, message } = transport.sent!;
    const isShown = problem?.status === 409 && (await show());
    if (isShown && answered) clearError(); // what was asked has its answer
    if (!isShown && !answered) setMessages(whole.current);
    setDraft((begun) => begun || message);
  }

  /** What was written is there again afterwards. */
  function signInAgain({ message }: Error, refused = "") {
    const texts = [...unqueued.map((each) => textOf(each.message)), refused, draft];
    session.keepDraft(texts.filter(Boolean).join("\n\n"));
    onSignedOut(message);
  }

  const again = useCallback(() => {
    if (lost) resume();
    else void regenerate({ metadata: { again: true } });
  }, [lost, resume, regenerate]);

  function tryAgain() {
    if (last?.role === "assistant") whole.current = messages; // it is cut
    again();
  }

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
    if (reading) {
      await transport.lookAtQueue().catch(() => {});
      setQueue(transport.queued);
    } else if (!unsent && (await show(() => transport.news()))) {
      clearError();
      onChanged();
    }
  });

  function send(text: string, files: FileUIPart[] = []) {
    whole.current = messages;
    attempts.current = 0;
    setAlternatives([]);
    void sendMessage(text ? { text, files } : { files });
  }

  /** When a turn has ended, however it did, the service begins the next one; the page reads it. */
  const failed = status === "error" && !lost && problemOf(error)?.turn_id !== undefined;
  const free = status === "ready" || failed;
  const next = queue[0];
  useEffect(() => {
    if (!free || next === undefined || next !== transport.queued[0]) return;
    let taken = false;
    setMessages((all) => {
      const newest = all.at(-1); // `last` may be a frame behind
      if (isUnderWay(newest) || newest?.metadata?.waiting) return all;
      taken = true;
      return [...all, next];
    });
    if (!taken) return;
    transport.readNext();
    setQueue(transport.queued);
    attempts.current = 0;
    setAlternatives([]);
    resume();
  }, [free, next, last, transport, setMessages, resume]);

  function enqueue(message: ChatapiMessage) {
    setQueueing((count) => count + 1);
    arrival.current = arrival.current
      .then(() => transport.queue(message))
      .catch((error: Error) => setUnqueued((all) => [...all, { message, error }]))
      .then(() => {
        setQueue(transport.queued);
        setQueueing((count) => count - 1);
      });
  }

  function giveUp(given: Unqueued) {
    setUnqueued((all) => all.filter((each) => each !== given));
  }

  async function takeBack(message: ChatapiMessage) {
    await transport.unqueue(message.metadata!.turn_id!).catch(() => {}); // it is shown still
    setQueue(transport.queued);
  }

  /** End the turn before the first that is queued. */
  async function answerNow() {
    if (!waits) return transport.cancel().catch(() => {});
    await transport.request(`/turns/${last.metadata!.turn_id}/cancel`, { method: "POST" }).catch(() => {});
    await show();
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
          {queue.map((message, index) => (
            <QueuedMessage
              key={message.id}
              message={message}
              note="Answered after this"
              onNow={index === 0 ? () => void answerNow() : undefined}
              onRemove={() => void takeBack(message)}
            />
          ))}
          {unqueued.map((each) => (
            <Fragment key={each.message.id}>
              <QueuedMessage message={each.message} note="Not sent" onNow={undefined} onRemove={() => giveUp(each)} />
              <Trouble
                error={each.error}
                again={() => {
                  if (problemOf(each.error)?.status === 401) return signInAgain(each.error);
                  giveUp(each);
                  enqueue(each.message);
                }}
                reconnecting={false}
              />
            </Fragment>
          ))}
          {error && (
            <Trouble
              error={error}
              again={transport.refused(error) ? undefined : tryAgain}
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
        onSend={(text, files) => (busy || queueing || queue.length ? enqueue(written(text, files)) : send(text, files))}
        onStop={() => void transport.cancel().catch(() => {})}
        onEditLast={lastQuestion !== undefined && !busy && !waits ? () => setEditing(true) : undefined}
      />
    </div>
  );
}

const NONE: Alternative[] = [];

/** A message that the service has not taken into its queue. */
interface Unqueued {
  message: ChatapiMessage;
  error: Error;
}

function written(text: string, files: FileUIPart[]): ChatapiMessage {
  return { id: String(Math.random()), role: "user", parts: [...files, ...(text ? [{ type: "text" as const, text }] : [])] };
}

interface QueuedProps {
  message: ChatapiMessage;
  note: string;
  onNow: (() => void) | undefined;
  onRemove: () => void;
}

/** A message that is answered when the answer before it has ended; the first may end that. */
function QueuedMessage({ message, note, onNow, onRemove }: QueuedProps) {
  return (
    <article className="message mine queued" aria-label="Waits for its turn">
      <div className="said">
        {filesOf(message).map((part) => <FileView key={part.url} part={part} />)}
        {textOf(message) && <p dir="auto" className="plain">{textOf(message)}</p>}
      </div>
      <footer>
        <small className="usage">{note}</small>
        {onNow && <button type="button" className="quiet" onClick={onNow}>Answer now</button>}
        <button type="button" className="quiet" onClick={onRemove}>Remove</button>
      </footer>
    </article>
  );
}

function isDoneToTasks(part: ChatapiMessage["parts"][number]): boolean {
  return part.type === "dynamic-tool" && part.state === "output-available" && /_tasks?$/.test(part.toolName);
}

function asks(part: ChatapiMessage["parts"][number]): boolean {
  return part.type === "dynamic-tool" && part.state === "approval-requested";
}

/** Whether the turn of this message, the last one, has yet to be read. */
function isUnderWay(message: ChatapiMessage | undefined): boolean {
  return message?.metadata?.status === "running" || message?.metadata?.status === "queued";
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
