import type { ChatapiTransport } from "@chatapi/ai-sdk";
import { problemOf } from "@chatapi/ai-sdk";
import type { FileUIPart } from "ai";
import { useEffect, useRef, useState } from "react";

import { Clip, Cross, File as FileIcon, Send, Stop } from "./icons.tsx";
import { IconButton, useMedia } from "./parts.tsx";

const LONGEST = 10_000; // characters of a message, as the service has it

/** A file on its way to the service, and then there. */
interface Attachment {
  key: number;
  name: string;
  preview: string | undefined;
  part?: FileUIPart;
  trouble?: string;
}

interface Props {
  transport: ChatapiTransport;
  busy: boolean;
  /** The keys are needed elsewhere; afterwards they are wanted here again. */
  editing: boolean;
  draft: string;
  onDraft: (text: string) => void;
  onSend: (text: string, files: FileUIPart[]) => void;
  onStop: () => void;
  onEditLast: (() => void) | undefined;
}

export function Composer({ transport, busy, editing, draft, onDraft, onSend, onStop, onEditLast }: Props) {
  const touch = useMedia("(pointer: coarse)");
  const [attachments, setAttachments] = useState<Attachment[]>([]);
  const [dragged, setDragged] = useState(false);
  const field = useRef<HTMLTextAreaElement>(null);
  const chooser = useRef<HTMLInputElement>(null);
  const uploading = attachments.some((each) => !each.part && !each.trouble);
  const files = attachments.flatMap((each) => each.part ?? []);
  const tooMany = [...draft].length - LONGEST;
  const empty = !draft.trim() && files.length === 0;

  useEffect(() => {
    if (!touch && !editing) field.current?.focus();
  }, [transport, touch, editing]);

  /** As high as its text, up to what the style sheet allows. */
  useEffect(() => {
    const box = field.current!;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  }, [draft]);

  function attach(chosen: Iterable<File>) {
    for (const file of chosen) {
      const key = Math.random();
      const preview = file.type.startsWith("image/") ? URL.createObjectURL(file) : undefined;
      setAttachments((all) => [...all, { key, name: file.name, preview }]);
      const change = (changes: Partial<Attachment>) =>
        setAttachments((all) => all.map((each) => (each.key === key ? { ...each, ...changes } : each)));
      transport.upload(file, file.name).then(
        (part) => change({ part }),
        (error: Error) => change({ trouble: problemOf(error)?.detail ?? "It could not be sent." }),
      );
    }
  }

  function submit() {
    if (empty || uploading || tooMany > 0) return;
    onSend(draft, files);
    onDraft("");
    setAttachments([]);
    if (!touch) field.current?.focus();
  }

  /** Files are taken wherever they are dropped: elsewhere the browser would open them. A text goes where it is dropped. */
  useEffect(() => {
    const over = (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      setDragged(true);
    };
    const leave = () => setDragged(false);
    const drop = (event: DragEvent) => {
      setDragged(false);
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      attach(event.dataTransfer.files);
    };
    addEventListener("dragover", over);
    addEventListener("dragleave", leave);
    addEventListener("drop", drop);
    return () => {
      removeEventListener("dragover", over);
      removeEventListener("dragleave", leave);
      removeEventListener("drop", drop);
    };
  }, [transport]);

  return (
    <form
      className={dragged ? "composer dragged" : "composer"}
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      {attachments.length > 0 && (
        <ul className="attachments" aria-label="Files">
          {attachments.map((each) => (
            <li key={each.key} className={each.trouble && "failed"} aria-busy={!each.part && !each.trouble}>
              {each.preview ? <img src={each.preview} alt="" /> : <FileIcon />}
              <span>{each.trouble ? `${each.name}: ${each.trouble}` : each.name}</span>
              <IconButton label={`Leave out ${each.name}`} onClick={() => setAttachments((all) => all.filter((one) => one !== each))}>
                <Cross />
              </IconButton>
            </li>
          ))}
        </ul>
      )}
      {tooMany > 0 && (
        <p role="alert" className="too-long">{`The message has ${tooMany.toLocaleString("en")} characters too many.`}</p>
      )}
      <div className="row">
        <input
          ref={chooser}
          type="file"
          multiple
          hidden
          onChange={(event) => {
            attach(event.target.files ?? []);
            event.target.value = "";
          }}
        />
        <IconButton label="Add files" onClick={() => chooser.current?.click()}><Clip /></IconButton>
        <textarea
          ref={field}
          rows={1}
          dir="auto"
          aria-label="Message"
          placeholder="Write a message"
          value={draft}
          onChange={(event) => onDraft(event.target.value)}
          onPaste={(event) => {
            if (event.clipboardData.files.length === 0) return;
            event.preventDefault();
            attach(event.clipboardData.files);
          }}
          onKeyDown={(event) => {
            if (event.nativeEvent.isComposing) return;
            if (event.key === "Enter" && !event.shiftKey && !touch) {
              event.preventDefault();
              submit();
            } else if (event.key === "Escape" && busy) onStop();
            else if (event.key === "ArrowUp" && draft === "" && onEditLast) {
              event.preventDefault();
              onEditLast();
            }
          }}
        />
        {busy && empty ? (
          <button type="button" className="send" aria-label="Stop" title="Stop (Escape)" onClick={onStop}><Stop /></button>
        ) : (
          <button className="send" aria-label="Send" title={busy ? "Send after this answer (Enter)" : "Send (Enter)"} disabled={empty || uploading || tooMany > 0}><Send /></button>
        )}
      </div>
    </form>
  );
}
