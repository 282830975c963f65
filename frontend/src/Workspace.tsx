import { type ChatapiMessage, ChatapiTransport, problemOf } from "@chatapi/ai-sdk";
import { useCallback, useEffect, useMemo, useState } from "react";

import { Chat } from "./Chat.tsx";
import { type Conversation, nameOf, useConversations } from "./conversations.ts";
import { Menu, Tasks } from "./icons.tsx";
import { IconButton, SessionContext, useMedia, useReturn } from "./parts.tsx";
import type { Session } from "./session.ts";
import { Sidebar } from "./Sidebar.tsx";
import { TaskList } from "./Tasks.tsx";
import { OWN_TOOLS } from "./tools.tsx";

/** The conversation that is open; `key` stays the same when a new one gets its id. */
interface Open {
  key: string;
  conversationId: number | undefined;
}

const TASKS = "chatapi-tasks"; // whether the reader wants them beside the chat, once that was said
const TITLE_LOOKS = [1_000, 4_000, 10_000]; // milliseconds after a conversation without a title is seen

function opened(conversationId: number | undefined): Open {
  return { key: conversationId === undefined ? `new ${Math.random()}` : String(conversationId), conversationId };
}

function inAddress(): number | undefined {
  return Number(location.hash.match(/^#(\d+)$/)?.[1]) || undefined;
}

export function Workspace({ session, onLeave }: { session: Session; onLeave: (refused?: string) => void }) {
  const narrow = useMedia("(max-width: 52rem)");
  const wide = useMedia("(min-width: 75rem)");
  const [open, setOpen] = useState(() => opened(inAddress()));
  const [listShown, setListShown] = useState(!narrow);
  const [tasksShown, setTasksShown] = useState(() => wide && localStorage.getItem(TASKS) === "shown");
  const [archived, setArchived] = useState(false);
  const [changes, setChanges] = useState(0); // of tasks
  const list = useConversations(session, archived);
  const { read } = list;

  useEffect(() => setListShown(!narrow), [narrow]);
  useReturn(() => void read().catch(() => {}));

  const go = useCallback(
    (conversationId: number | undefined) => {
      if (conversationId !== inAddress()) history.pushState(null, "", conversationId === undefined ? location.pathname : `#${conversationId}`);
      setOpen(opened(conversationId));
      if (narrow) setListShown(false);
    },
    [narrow],
  );
  useEffect(() => {
    const back = () => setOpen((now) => (now.conversationId === inAddress() ? now : opened(inAddress())));
    addEventListener("popstate", back);
    return () => removeEventListener("popstate", back);
  }, []);

  const begun = useCallback(
    (conversationId: number) => {
      if (inAddress() === conversationId) return;
      history.replaceState(null, "", `#${conversationId}`);
      setOpen((now) => ({ ...now, conversationId }));
      void read().catch(() => {});
    },
    [read],
  );
  const changed = useCallback(() => void read().catch(() => {}), [read]);

  function wantTasks(wanted: boolean) {
    setTasksShown(wanted);
    if (wide) localStorage.setItem(TASKS, wanted ? "shown" : "hidden");
  }

  /** Tasks are shown, and asked for, from when there is something to see in them. */
  const tasksUsed = useCallback(() => {
    setChanges((count) => count + 1);
    if (wide && localStorage.getItem(TASKS) !== "hidden") setTasksShown(true);
  }, [wide]);

  function showChat() {
    setListShown(false);
    setTasksShown(false);
  }

  /** What covers the conversation on a narrow page is left by Escape. */
  const covered = narrow && (listShown || tasksShown);
  useEffect(() => {
    if (!covered) return;
    const leave = (event: KeyboardEvent) => event.key === "Escape" && showChat();
    addEventListener("keydown", leave);
    return () => removeEventListener("keydown", leave);
  }, [covered]);

  function remove(conversation: Conversation) {
    list.remove(conversation);
    if (conversation.id === open.conversationId) go(undefined);
  }

  const current = list.items?.find((each) => each.id === open.conversationId);
  const untitled = current?.title === null;

  /** A title is made beside the answer, and may come later. */
  useEffect(() => {
    if (!untitled) return;
    const timers = TITLE_LOOKS.map((wait) => setTimeout(changed, wait));
    return () => timers.forEach(clearTimeout);
  }, [untitled, changed]);

  const title = current ? nameOf(current) : open.conversationId === undefined ? "New conversation" : "Conversation";
  useEffect(() => {
    document.title = current ? `${nameOf(current)} · chatapi` : "chatapi";
  }, [current]);

  return (
    <SessionContext value={session}>
      <div className={`workspace${listShown ? " with-list" : ""}${tasksShown ? " with-tasks" : ""}`}>
        {listShown && (
          <Sidebar
            list={list}
            open={open.conversationId}
            archived={archived}
            onArchived={setArchived}
            onOpen={go}
            onDelete={remove}
            onLeave={() => onLeave()}
            onClose={narrow ? () => setListShown(false) : undefined}
          />
        )}
        <main inert={narrow && (listShown || tasksShown)}>
          <header className="bar">
            <IconButton label={listShown ? "Hide conversations" : "Show conversations"} aria-expanded={listShown} onClick={() => setListShown(!listShown)}>
              <Menu />
            </IconButton>
            <h1 dir="auto">{title}</h1>
            <IconButton label={tasksShown ? "Hide tasks" : "Show tasks"} aria-expanded={tasksShown} onClick={() => wantTasks(!tasksShown)}>
              <Tasks />
            </IconButton>
          </header>
          <OpenConversation
            key={open.key}
            session={session}
            conversationId={open.conversationId}
            onBegun={begun}
            onChanged={changed}
            onTasksUsed={tasksUsed}
            onSignedOut={onLeave}
          />
        </main>
        {narrow && (listShown || tasksShown) && <div className="scrim" onClick={showChat} />}
        {tasksShown && <TaskList changes={changes} onClose={() => wantTasks(false)} />}
        <div className="toast" role="status">
          {list.deleted && (
            <p>
              <span>Deleted “{nameOf(list.deleted)}”.</span>
              <button type="button" onClick={list.undo}>Undo</button>
            </p>
          )}
          {list.trouble && (
            <p>
              <span>{list.trouble}</span>
              <button type="button" onClick={list.forget}>Close</button>
            </p>
          )}
        </div>
      </div>
    </SessionContext>
  );
}

interface ConversationProps {
  session: Session;
  conversationId: number | undefined;
  onBegun: (conversationId: number) => void;
  onChanged: () => void;
  onTasksUsed: () => void;
  onSignedOut: (refused: string) => void;
}

/** Reads what was said before, then chats. */
function OpenConversation({ session, conversationId, onSignedOut, ...rest }: ConversationProps) {
  // Made once: a conversation that has just begun gets its id from the transport itself.
  const transport = useMemo(
    () =>
      new ChatapiTransport({
        url: "",
        userId: session.userId,
        token: session.token,
        conversationId,
        clientTools: OWN_TOOLS,
      }),
    [session],
  );
  const [history, setHistory] = useState<ChatapiMessage[] | undefined>(conversationId === undefined ? [] : undefined);
  const [trouble, setTrouble] = useState<Error>();
  const read = useCallback(() => {
    setTrouble(undefined);
    transport.history().then(setHistory, (error: Error) => {
      if (problemOf(error)?.status === 401) onSignedOut(error.message);
      else setTrouble(error);
    });
  }, [transport, onSignedOut]);
  useEffect(() => {
    if (transport.conversationId !== undefined) read();
  }, [transport, read]);

  if (trouble) {
    return (
      <div className="chat">
        <div className="messages">
          <div role="alert" className="trouble">
            <strong>{problemOf(trouble)?.title ?? "The service was not reached"}</strong>
            <p>{trouble.message}</p>
            <button type="button" onClick={read}>Try again</button>
          </div>
        </div>
      </div>
    );
  }
  if (history === undefined) return <div className="chat" aria-busy="true" />;
  return <Chat transport={transport} history={history} onSignedOut={onSignedOut} {...rest} />;
}
