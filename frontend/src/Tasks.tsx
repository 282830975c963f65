import type { Schemas } from "@chatapi/ai-sdk";
import { useCallback, useEffect, useState } from "react";

import { Cross, Plus, Trash } from "./icons.tsx";
import { IconButton, useReturn, useSession } from "./parts.tsx";
import { reasonOf } from "./session.ts";

type Task = Schemas["Task"];

/** The user's tasks, read again whenever `changes` counts on. */
export function TaskList({ changes, onClose }: { changes: number; onClose: () => void }) {
  const session = useSession();
  const [tasks, setTasks] = useState<Task[]>();
  const [title, setTitle] = useState("");
  const [trouble, setTrouble] = useState<string>();

  const read = useCallback(async () => {
    setTasks((await session.list<Task>("/tasks")).items);
  }, [session]);
  useEffect(() => void read().catch(() => {}), [read, changes]);
  useReturn(() => void read().catch(() => {}));

  /** Show the change at once, and then what the service has. If it does not take the change, say why and call `refused`. */
  async function change(shown: (tasks: Task[]) => Task[], request: () => Promise<unknown>, refused = () => {}) {
    setTrouble(undefined);
    setTasks((all) => all && shown(all));
    await request().catch((error: Error) => {
      setTrouble(reasonOf(error));
      setTasks(tasks);
      refused();
    });
    await read().catch(() => {});
  }

  const open = tasks?.filter((task) => !task.completed) ?? [];
  const done = tasks?.filter((task) => task.completed) ?? [];

  function row(task: Task) {
    return (
      <li key={task.id} className={task.completed ? "done" : undefined}>
        <label>
          <input
            type="checkbox"
            checked={task.completed}
            onChange={(event) => {
              const completed = event.target.checked;
              void change(
                (all) => all.map((each) => (each === task ? { ...task, completed } : each)),
                () => session.request("PATCH", `/tasks/${task.id}`, { completed }),
              );
            }}
          />
          <span dir="auto">{task.title}</span>
        </label>
        <IconButton
          label={`Delete ${task.title}`}
          onClick={() =>
            void change(
              (all) => all.filter((each) => each !== task),
              () => session.request("DELETE", `/tasks/${task.id}`),
            )
          }
        >
          <Trash />
        </IconButton>
      </li>
    );
  }

  return (
    <aside className="tasks" aria-label="Tasks">
      <header>
        <h2>Tasks</h2>
        <IconButton label="Hide tasks" onClick={onClose}><Cross /></IconButton>
      </header>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (!title.trim()) return;
          setTitle("");
          void change(
            (all) => all,
            () => session.request("POST", "/tasks", { title: title.trim() }),
            () => setTitle((begun) => begun || title),
          );
        }}
      >
        <input value={title} onChange={(event) => setTitle(event.target.value)} placeholder="Add a task" aria-label="Add a task" maxLength={200} dir="auto" />
        <button className="icon" aria-label="Add" disabled={!title.trim()}><Plus /></button>
      </form>
      {trouble && <p role="alert" className="warning">{trouble}</p>}
      {tasks && tasks.length === 0 && <p className="hint">Nothing to do. Ask the assistant to add something.</p>}
      <ul>{open.map(row)}</ul>
      {done.length > 0 && (
        <details>
          <summary>Done ({done.length})</summary>
          <ul>{done.map(row)}</ul>
        </details>
      )}
    </aside>
  );
}
