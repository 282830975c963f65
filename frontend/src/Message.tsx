import type { ChatapiMessage, ChatapiMetadata } from "@chatapi/ai-sdk";
import { textOf } from "@chatapi/ai-sdk";
import { memo, useEffect, useRef, useState } from "react";

import type { Alternative } from "./alternatives.ts";
import { Feedback } from "./Feedback.tsx";
import { FileView } from "./files.tsx";
import { Again, Check, Copy, Left, Pencil, Right, Thought } from "./icons.tsx";
import { Markdown } from "./Markdown.tsx";
import { dollars, IconButton, useCopied } from "./parts.tsx";
import { ToolCard } from "./tools.tsx";

const ENDED: Record<string, string> = { failed: "The answer failed.", cancelled: "The answer was stopped." };

interface Props {
  message: ChatapiMessage;
  /** Whether it is being written. */
  live: boolean;
  /** The status of its turn, at the turn's last message. */
  ended: string | undefined;
  alternatives: Alternative[];
  onEdit: (() => void) | undefined;
  editing: { save: (text: string) => void; leave: () => void } | undefined;
  onAgain: (() => void) | undefined;
  onApproval: (id: string, approved: boolean, reason?: string) => void;
}

export const MessageView = memo(
  function MessageView({ message, live, ended, alternatives, onEdit, editing, onAgain, onApproval }: Props) {
    const mine = message.role === "user";
    const [shown, setShown] = useState<Alternative>();
    useEffect(() => setShown(undefined), [alternatives]);
    return (
      <article className={mine ? "message mine" : "message"} aria-label={mine ? "You" : "Assistant"} aria-busy={live || undefined}>
        {editing ? (
          <Editor text={textOf(message)} {...editing} />
        ) : (
          <div className="said" dir="auto">
            {shown ? (
              <Markdown text={shown.text} />
            ) : (
              message.parts.map((part, index) => {
                switch (part.type) {
                  case "text":
                    return mine ? <p key={index} dir="auto" className="plain">{part.text}</p> : <Markdown key={index} text={part.text} />;
                  case "reasoning":
                    return <Reasoning key={index} text={part.text} live={part.state === "streaming" && live} />;
                  case "dynamic-tool":
                    return <ToolCard key={index} part={part} onApproval={onApproval} />;
                  case "file":
                    return <FileView key={index} part={part} />;
                  default:
                    return null;
                }
              })
            )}
          </div>
        )}
        {ended && ENDED[ended] && <p className="ended">{ENDED[ended]}</p>}
        {!live && !editing && (
          <footer>
            {alternatives.length > 1 && <Pager alternatives={alternatives} shown={shown} onShow={setShown} />}
            <CopyButton text={shown?.text ?? textOf(message)} />
            {onEdit && mine && <IconButton label="Edit" onClick={onEdit}><Pencil /></IconButton>}
            {onAgain && <IconButton label="Another answer" onClick={onAgain}><Again /></IconButton>}
            {!mine && !shown && message.metadata?.message_id !== undefined && (
              <Feedback messageId={message.metadata.message_id} given={message.metadata.feedback?.rating} />
            )}
            {!mine && !shown && <Usage usage={message.metadata?.usage} />}
          </footer>
        )}
      </article>
    );
  },
  (before, after) =>
    before.message === after.message &&
    before.live === after.live &&
    before.ended === after.ended &&
    before.alternatives === after.alternatives &&
    before.editing === undefined &&
    after.editing === undefined &&
    Boolean(before.onEdit) === Boolean(after.onEdit) &&
    // What another answer and an edit begin with are the messages of the latest look.
    before.onAgain === after.onAgain,
);

function Reasoning({ text, live }: { text: string; live: boolean }) {
  return (
    <details className="reasoning">
      <summary><Thought />{live ? "Thinking…" : "Thoughts"}</summary>
      <Markdown text={text} />
    </details>
  );
}

function Editor({ text, save, leave }: { text: string; save: (text: string) => void; leave: () => void }) {
  const [draft, setDraft] = useState(text);
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    field.current?.focus();
    field.current?.setSelectionRange(text.length, text.length);
  }, [text]);
  return (
    <form
      className="editor"
      onSubmit={(event) => {
        event.preventDefault();
        if (draft.trim()) save(draft);
      }}
      onKeyDown={(event) => {
        if (event.key === "Escape") leave();
        if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) {
          event.preventDefault();
          if (draft.trim()) save(draft);
        }
      }}
    >
      <textarea ref={field} dir="auto" aria-label="Edit the message" value={draft} onChange={(event) => setDraft(event.target.value)} />
      <div>
        <button type="button" onClick={leave}>Cancel</button>
        <button className="primary" disabled={!draft.trim()}>Send</button>
      </div>
    </form>
  );
}

function Pager({ alternatives, shown, onShow }: { alternatives: Alternative[]; shown: Alternative | undefined; onShow: (one: Alternative | undefined) => void }) {
  const at = shown ? alternatives.indexOf(shown) : alternatives.length - 1;
  const go = (to: number) => onShow(to === alternatives.length - 1 ? undefined : alternatives[to]);
  return (
    <span className="pager" role="group" aria-label="Answers">
      <IconButton label="Answer before" disabled={at === 0} onClick={() => go(at - 1)}><Left /></IconButton>
      <span>{at + 1} / {alternatives.length}</span>
      <IconButton label="Answer after" disabled={at === alternatives.length - 1} onClick={() => go(at + 1)}><Right /></IconButton>
    </span>
  );
}

function CopyButton({ text }: { text: string }) {
  const [copied, copy] = useCopied();
  if (!text) return null;
  return <IconButton label={copied ? "Copied" : "Copy"} onClick={() => copy(text)}>{copied ? <Check /> : <Copy />}</IconButton>;
}

function Usage({ usage }: { usage: ChatapiMetadata["usage"] }) {
  if (!usage) return null;
  const { input_tokens: read = 0, output_tokens: written = 0, cost } = usage;
  const tokens = `${read.toLocaleString("en")} in · ${written.toLocaleString("en")} out`;
  return (
    <small className="usage" title={cost === undefined ? "Tokens read and written" : "Tokens read and written, and their price"}>
      {cost === undefined ? tokens : `${tokens} · ${dollars(cost)}`}
    </small>
  );
}
