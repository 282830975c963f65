import { useChat } from "@ai-sdk/react";
import type { ChatapiMessage, ChatapiTransport } from "@chatapi/ai-sdk";
import { answersAreReady, callsToCarryOut, problemOf, textOf } from "@chatapi/ai-sdk";
import type { FileUIPart } from "ai";
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

import { type Alternative, alternativesOf } from "./alternatives.ts";
import { Composer } from "./Composer.tsx";
import { ToEnd } from "./icons.tsx";
import { MessageView } from "./Message.tsx";
import { useOnline, useReturn, useSession } from "./parts.tsx";
import { QueueView, useQueue, written } from "./queue.tsx";
import { useStickToEnd } from "./scrolling.ts";
import { carryOut, OWN_TOOLS } from "./tools.tsx";
import { Trouble } from "./Trouble.tsx";
import { Welcome } from "./Welcome.tsx";

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
  const [draft, setDraft] = useState(() => session.draft(transport.conversationId));
  const [editing, setEditing] = useState(false);
  const [alternatives, setAlternatives] = useState<Alternative[]>([]);
  const [said, setSaid] = useState(""); // told to screen readers
  const whole = useRef(history); // the messages before `useChat` cuts them for an edit or another answer
  const attempts = useRef(0);
  const carriedOut = useRef(new Set<string>()); // calls of the page's own tools
  const [resuming, setResuming] = useState(false); // `status` does not tell while a stream is asked for
  const queue = useQueue(transport);

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

  /** A draft of a new conversation is this one's once it has begun. */
  const place = useRef(transport.conversationId);
  useEffect(() => {
    const begun = conversationId ?? place.current;
    if (begun !== place.current) session.keepDraft(place.current, "");
    place.current = begun;
    session.keepDraft(begun, draft);
  }, [session, conversationId, draft]);

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
    queue.update();
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
    const texts = [...queue.unqueued.map((each) => textOf(each.message)), refused, draft];
    session.keepDraft(place.current, texts.filter(Boolean).join("\n\n"));
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
      queue.update();
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
  const next = queue.queued[0];
  const { update } = queue;
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
    update();
    attempts.current = 0;
    setAlternatives([]);
    resume();
  }, [free, next, last, transport, setMessages, resume, update]);

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
          <QueueView
            queue={queue}
            onNow={() => void answerNow()}
            onAgain={(given) => {
              if (problemOf(given.error)?.status === 401) return signInAgain(given.error);
              queue.sendAgain(given);
            }}
          />
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
        editing={editing}
        draft={draft}
        onDraft={setDraft}
        onSend={(text, files) => {
          scrolled.toEnd();
          if (busy || !queue.isEmpty) queue.add(written(text, files));
          else send(text, files);
        }}
        onStop={() => void transport.cancel().catch(() => {})}
        onEditLast={lastQuestion !== undefined && !busy && !waits ? () => setEditing(true) : undefined}
      />
    </div>
  );
}

const NONE: Alternative[] = [];

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
