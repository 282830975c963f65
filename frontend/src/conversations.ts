import type { Schemas } from "@chatapi/ai-sdk";
import { useCallback, useEffect, useRef, useState } from "react";

import type { Session } from "./session.ts";

export type Conversation = Schemas["Conversation"];
export type Changes = Partial<Pick<Conversation, "title" | "archived" | "pinned">>;

interface Page {
  items: Conversation[];
  next_cursor: string | null;
}

const UNDO = 6_000; // milliseconds in which a deletion can be taken back

export function nameOf({ id, title }: Conversation): string {
  return title ?? `Conversation ${id}`;
}

/** The user's conversations, as far as they are read; what is changed shows at once. */
export function useConversations(session: Session, archived: boolean) {
  const [items, setItems] = useState<Conversation[]>();
  const [cursor, setCursor] = useState<string | null>(null);
  const [deleted, setDeleted] = useState<Conversation>();
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const doomed = useRef<Conversation>(undefined);
  const filter = `&archived=${archived}&source=app`;

  const read = useCallback(async () => {
    const page = await session.request<Page>("GET", `/conversations?limit=30${filter}`);
    setItems((known) => {
      const older = (known ?? []).slice(page.items.length);
      const ids = new Set(page.items.map((item) => item.id));
      return page.next_cursor === null ? page.items : [...page.items, ...older.filter((item) => !ids.has(item.id))];
    });
    setCursor((known) => known ?? page.next_cursor);
  }, [session, filter]);
  useEffect(() => {
    setItems(undefined);
    setCursor(null);
    void read().catch(() => {});
  }, [read]);

  async function more() {
    const page = await session.request<Page>("GET", `/conversations?limit=30&cursor=${encodeURIComponent(cursor!)}${filter}`);
    setItems((known) => [...(known ?? []), ...page.items]);
    setCursor(page.next_cursor);
  }

  async function change(conversation: Conversation, changes: Changes) {
    setItems((all) => all?.map((each) => (each.id === conversation.id ? { ...each, ...changes } : each)));
    await session.request("PATCH", `/conversations/${conversation.id}`, changes).catch(() => {});
    await read().catch(() => {});
  }

  /** Carry out a deletion that is still waiting; also when the page goes away, which it outlives. */
  const settle = useCallback(() => {
    clearTimeout(timer.current);
    const gone = doomed.current;
    doomed.current = undefined;
    setDeleted(undefined);
    if (gone) void session.send("DELETE", `/conversations/${gone.id}`, undefined, { keepalive: true }).then(read).catch(() => {});
  }, [session, read]);
  useEffect(() => {
    addEventListener("pagehide", settle);
    return () => removeEventListener("pagehide", settle);
  }, [settle]);

  function remove(conversation: Conversation) {
    settle();
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
  return { items: shown, more: cursor === null ? undefined : more, read, change, remove, undo, deleted };
}
