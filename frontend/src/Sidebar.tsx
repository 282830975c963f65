import type { Schemas } from "@chatapi/ai-sdk";
import { useEffect, useId, useRef, useState } from "react";

import { type Conversation, nameOf, type useConversations } from "./conversations.ts";
import { Archive, Cross, Dots, Moon, Out, Pencil, Pin, Plus, Search, Sun, Trash } from "./icons.tsx";
import { type Choice, IconButton, Menu, useSession } from "./parts.tsx";
import { type Theme, useTheme } from "./theme.ts";
import { Used } from "./Used.tsx";

interface Props {
  list: ReturnType<typeof useConversations>;
  open: number | undefined;
  archived: boolean;
  onArchived: (archived: boolean) => void;
  onOpen: (conversationId: number | undefined) => void;
  onDelete: (conversation: Conversation) => void;
  onLeave: () => void;
  onClose: (() => void) | undefined;
}

export function Sidebar({ list, open, archived, onArchived, onOpen, onDelete, onLeave, onClose }: Props) {
  const session = useSession();
  const [query, setQuery] = useState("");
  const [renamed, setRenamed] = useState<number>();
  const [theme, setTheme] = useTheme();
  const pinned = list.items?.filter((each) => each.pinned) ?? [];
  const others = list.items?.filter((each) => !each.pinned) ?? [];

  function row(conversation: Conversation) {
    const name = nameOf(conversation);
    if (renamed === conversation.id) {
      const rename = (title: string) => {
        setRenamed(undefined);
        if (title !== conversation.title) void list.change(conversation, { title: title || null });
      };
      return <li key={conversation.id}><Rename title={conversation.title ?? ""} onDone={rename} onLeave={() => setRenamed(undefined)} /></li>;
    }
    const choices: Choice[] = [
      { label: "Rename", icon: <Pencil />, act: () => setRenamed(conversation.id) },
      { label: conversation.pinned ? "Unpin" : "Pin", icon: <Pin />, act: () => void list.change(conversation, { pinned: !conversation.pinned }) },
      { label: conversation.archived ? "Unarchive" : "Archive", icon: <Archive />, act: () => void list.change(conversation, { archived: !conversation.archived }) },
      { label: "Delete", icon: <Trash />, act: () => onDelete(conversation), danger: true },
    ];
    return (
      <li key={conversation.id} className={conversation.id === open ? "open" : undefined}>
        <a
          href={`#${conversation.id}`}
          aria-current={conversation.id === open ? "page" : undefined}
          dir="auto"
          onClick={inThisTab(() => onOpen(conversation.id))}
        >
          {name}
        </a>
        <Menu label={`More for ${name}`} icon={<Dots />} choices={choices} />
      </li>
    );
  }

  return (
    <nav className="sidebar" aria-label="Conversations">
      <header>
        <button type="button" className="new" onClick={() => onOpen(undefined)}><Plus />New conversation</button>
        {onClose && <IconButton label="Hide conversations" onClick={onClose}><Cross /></IconButton>}
      </header>
      <label className="search">
        <Search />
        <input type="search" value={query} onChange={(event) => setQuery(event.target.value)} placeholder="Search" aria-label="Search conversations" />
      </label>
      <div className="lists">
        {query.trim() ? (
          <Found query={query} onOpen={onOpen} />
        ) : (
          <>
            {pinned.length > 0 && <Group name="Pinned">{pinned.map(row)}</Group>}
            {others.length > 0 && <Group name={archived ? "Archived" : pinned.length > 0 ? "Others" : undefined}>{others.map(row)}</Group>}
            {list.items?.length === 0 && <p className="hint">{archived ? "Nothing is archived." : "No conversations yet."}</p>}
            {list.more && <button type="button" className="quiet" onClick={() => void list.more?.()}>Older ones</button>}
          </>
        )}
      </div>
      <footer>
        <button type="button" className="quiet" aria-pressed={archived} onClick={() => onArchived(!archived)}><Archive />Archived</button>
        <Used />
        <IconButton label={theme === "dark" ? "Light" : "Dark"} onClick={() => setTheme(NEXT[theme])}>{theme === "dark" ? <Sun /> : <Moon />}</IconButton>
        {session.canSignOut && <IconButton label="Sign out" onClick={onLeave}><Out /></IconButton>}
      </footer>
    </nav>
  );
}

const NEXT: Record<Theme, Theme> = { dark: "light", light: "dark" };

/** Follow a link in the page itself, unless the reader asks for another tab or window. */
function inThisTab(follow: () => void) {
  return (event: React.MouseEvent) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    follow();
  };
}

function Group({ name, children }: { name: string | undefined; children: React.ReactNode }) {
  const id = useId();
  return (
    <section aria-labelledby={name && id}>
      {name && <h2 id={id}>{name}</h2>}
      <ul>{children}</ul>
    </section>
  );
}

function Rename({ title, onDone, onLeave }: { title: string; onDone: (title: string) => void; onLeave: () => void }) {
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.select(), []);
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        onDone(field.current!.value.trim());
      }}
    >
      <input
        ref={field}
        defaultValue={title}
        maxLength={200}
        dir="auto"
        aria-label="Title"
        onBlur={(event) => onDone(event.target.value.trim())}
        onKeyDown={(event) => event.key === "Escape" && onLeave()}
      />
    </form>
  );
}

type Hit = Schemas["Found"];

const PAUSE = 200; // milliseconds without a key before a search is made

/** What the service finds in titles and messages; hits stand between U+E000 and U+E001. */
function Found({ query, onOpen }: { query: string; onOpen: (conversationId: number) => void }) {
  const session = useSession();
  const [hits, setHits] = useState<Hit[]>();
  const [trouble, setTrouble] = useState<string>();
  useEffect(() => {
    let old = false;
    const timer = setTimeout(() => {
      session.request<{ items: Hit[] }>("GET", `/search?limit=20&q=${encodeURIComponent(query.trim())}`).then(
        ({ items }) => {
          if (old) return;
          setTrouble(undefined);
          setHits(items);
        },
        (error: Error) => old || setTrouble(error.message),
      );
    }, PAUSE);
    return () => {
      old = true;
      clearTimeout(timer);
    };
  }, [session, query]);
  if (trouble) return <p className="hint" role="status">{trouble}</p>;
  if (hits?.length === 0) return <p className="hint" role="status">Nothing found.</p>;
  return (
    <ul className="found">
      {hits?.map((hit, index) => (
        <li key={index}>
          <a href={`#${hit.conversation_id}`} onClick={inThisTab(() => onOpen(hit.conversation_id))}>
            <strong dir="auto">{hit.title ?? `Conversation ${hit.conversation_id}`}</strong>
            <span dir="auto">{marked(hit.snippet)}</span>
          </a>
        </li>
      ))}
    </ul>
  );
}

function marked(snippet: string) {
  return snippet.split(/(\ue000[^\ue001]*\ue001)/).map((piece, index) =>
    piece.startsWith("\ue000") ? <mark key={index}>{piece.slice(1, -1)}</mark> : piece,
  );
}
