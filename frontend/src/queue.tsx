// Messages that wait for an answer to end: those that the service has queued, and those that did not get there.
import type { ChatapiMessage, ChatapiTransport } from "@chatapi/ai-sdk";
import { filesOf, problemOf, textOf } from "@chatapi/ai-sdk";
import type { FileUIPart } from "ai";
import { Fragment, useCallback, useEffect, useRef, useState } from "react";

import { FileView } from "./files.tsx";
import { useOnline } from "./parts.tsx";
import { Trouble } from "./Trouble.tsx";

/** A message that the service has not taken. */
interface Unqueued {
  message: ChatapiMessage;
  error: Error;
}

interface Queue {
  /** Those whose turns have not begun, in their order. */
  queued: readonly ChatapiMessage[];
  unqueued: Unqueued[];
  /** Nothing is queued, nor on its way there. */
  isEmpty: boolean;
  /** Show what the transport knows now. */
  update: () => void;
  add: (message: ChatapiMessage) => void;
  giveUp: (given: Unqueued) => void;
  sendAgain: (given: Unqueued) => void;
  takeBack: (message: ChatapiMessage) => Promise<void>;
}

export function useQueue(transport: ChatapiTransport): Queue {
  const [queued, setQueued] = useState(transport.queued);
  const [unqueued, setUnqueued] = useState<Unqueued[]>([]);
  const [underWay, setUnderWay] = useState(0);
  const arrival = useRef(Promise.resolve()); // they are queued in the order in which they were written

  const update = useCallback(() => setQueued(transport.queued), [transport]);

  function add(message: ChatapiMessage) {
    setUnderWay((count) => count + 1);
    arrival.current = arrival.current
      .then(() => transport.queue(message))
      .catch((error: Error) => setUnqueued((all) => [...all, { message, error }]))
      .then(() => {
        update();
        setUnderWay((count) => count - 1);
      });
  }

  function giveUp(given: Unqueued) {
    setUnqueued((all) => all.filter((each) => each !== given));
  }

  function sendAgain(given: Unqueued) {
    giveUp(given);
    add(given.message);
  }

  /** What never arrived is sent again when the network is back. */
  const online = useOnline();
  useEffect(() => {
    if (!online) return;
    unqueued.filter(({ error }) => problemOf(error) === undefined).forEach(sendAgain);
  }, [online]);

  async function takeBack(message: ChatapiMessage) {
    await transport.unqueue(message.metadata!.turn_id!).catch(() => {}); // it is shown still
    update();
  }

  return { queued, unqueued, isEmpty: underWay === 0 && queued.length === 0, update, add, giveUp, sendAgain, takeBack };
}

export function written(text: string, files: FileUIPart[]): ChatapiMessage {
  return { id: String(Math.random()), role: "user", parts: [...files, ...(text ? [{ type: "text" as const, text }] : [])] };
}

interface QueueViewProps {
  queue: Queue;
  /** End the turn before the first that is queued. */
  onNow: () => void;
  onAgain: (given: Unqueued) => void;
}

export function QueueView({ queue, onNow, onAgain }: QueueViewProps) {
  return (
    <>
      {queue.queued.map((message, index) => (
        <QueuedMessage
          key={message.id}
          message={message}
          note="Answered after this"
          onNow={index === 0 ? onNow : undefined}
          onRemove={() => void queue.takeBack(message)}
        />
      ))}
      {queue.unqueued.map((each) => (
        <Fragment key={each.message.id}>
          <QueuedMessage message={each.message} note="Not sent" onNow={undefined} onRemove={() => queue.giveUp(each)} />
          <Trouble error={each.error} again={() => onAgain(each)} reconnecting={false} />
        </Fragment>
      ))}
    </>
  );
}

interface QueuedMessageProps {
  message: ChatapiMessage;
  note: string;
  onNow: (() => void) | undefined;
  onRemove: () => void;
}

function QueuedMessage({ message, note, onNow, onRemove }: QueuedMessageProps) {
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
