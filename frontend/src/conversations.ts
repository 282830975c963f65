import { problemOf, type Schemas } from "@chatapi/ai-sdk";
import { useCallback, useEffect, useRef, useState } from "react";

import { reasonOf, type Session } from "./session.ts";

export type Conversation = Schemas["Conversation"];
export type Changes = Partial<Pick<Conversation, "title" | "archived" | "pinned">>;

const UNDO = 6_000; // milliseconds in which a deletion can be taken back
const STEP = 30; // how many conversations are shown at first, and how many more each time

export function nameOf({ id, title }: Conversation): string {
  return title ?? `Conversation ${id}`;
}

/** The user's conversations, as many as are wanted; what is changed shows at once. */
export function useConversations(session: Session, archived: boolean) {
  const [items, setItems] = useState<Conversation[]>();
  const [hasMore, setHasMore] = useState(false);
  const [deleted, setDeleted] = useState<Conversation>();
  const [trouble, setTrouble] = useState<string>(); // why the last change was not made
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const doomed = useRef<Conversation>(undefined);
  const wanted = useRef({ archived, count: STEP });
  const reads = useRef(0);

  /** Read all that are wanted anew, since any of them may have moved or gone. A read that a later one has overtaken shows nothing. */
  const read = useCallback(async () => {
    const number = ++reads.current;
    const { archived, count } = wanted.current;
    const first = archived ? undefined : session.takeConversations();
    const found = await session.list<Conversation>("/conversations", { count, filter: `&archived=${archived}&source=app`, first });
    if (reads.current !== number) return;
    setItems(found.items);
    setHasMore(found.hasMore);
  }, [session]);
  useEffect(() => {
    wanted.current = { archived, count: STEP };
    setItems(undefined);
    setHasMore(false);
    void read().catch(() => {});
  }, [read, archived]);

  async function more() {
    wanted.current.count += STEP;
    await read().catch(() => {});
  }

  async function change(conversation: Conversation, changes: Changes) {
    setTrouble(undefined);
    setItems((all) => all?.map((each) => (each.id === conversation.id ? { ...each, ...changes } : each)));
    await session.request("PATCH", `/conversations/${conversation.id}`, changes).catch((error: Error) => {
      setTrouble(reasonOf(error));
      setItems((all) => all?.map((each) => (each.id === conversation.id ? conversation : each)));
    });
    await read().catch(() => {});
  }

  /** Carry out a deletion that is still waiting; also when the page goes away, which it outlives. */
  const settle = useCallback(() => {
    clearTimeout(timer.current);
    const gone = doomed.current;
    doomed.current = undefined;
    setDeleted(undefined);
    if (!gone) return;
    setItems((all) => all?.filter((each) => each.id !== gone.id));
    const deletion = session.send("DELETE", `/conversations/${gone.id}`, undefined, { keepalive: true });
    void deletion.catch((error: Error) => problemOf(error)?.status !== 404 && setTrouble(reasonOf(error))).then(read).catch(() => {});
  }, [session, read]);
  useEffect(() => {
    addEventListener("pagehide", settle);
    return () => removeEventListener("pagehide", settle);
  }, [settle]);

  function remove(conversation: Conversation) {
    settle();
    setTrouble(undefined);
    doomed.current = conversation;
    setDeleted(conversation);
    timer.current = setTimeout(settle, UNDO);
  }

  function undo() {
    clearTimeout(timer.current);
    doomed.current = undefined;
    setDeleted(undefined);
  }

  const shown = items?.filter((each) => each.id !== deleted?.id);
  return { items: shown, more: hasMore ? more : undefined, read, change, remove, undo, deleted, trouble, forget: () => setTrouble(undefined) };
}
