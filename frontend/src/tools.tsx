import type { ClientTool } from "@chatapi/ai-sdk";
import type { DynamicToolUIPart } from "ai";
import { useState } from "react";

import { Check, Cross, Wrench } from "./icons.tsx";
import { toClipboard } from "./parts.tsx";

/** Tools that this page carries out itself: what only a browser knows. */
export const OWN_TOOLS: ClientTool[] = [
  {
    name: "browser_time_zone",
    description: "The time zone, the local time and the language of the user's browser.",
    parameters: { type: "object", properties: {} },
  },
  {
    name: "copy_to_clipboard",
    description: "Copy a text to the user's clipboard.",
    parameters: { type: "object", properties: { text: { type: "string" } }, required: ["text"] },
  },
];

export async function carryOut(name: string, input: unknown): Promise<unknown> {
  switch (name) {
    case "browser_time_zone":
      return {
        time_zone: Intl.DateTimeFormat().resolvedOptions().timeZone,
        local_time: new Date().toString(),
        language: navigator.language,
      };
    case "copy_to_clipboard":
      await toClipboard(String((input as { text?: unknown }).text ?? ""));
      return { copied: true };
    default:
      throw new Error(`This page has no tool ${name}.`);
  }
}

const STATES: Partial<Record<DynamicToolUIPart["state"], string>> = {
  "output-available": "done",
  "output-error": "failed",
  "output-denied": "denied",
  "approval-requested": "asks for your approval",
  "approval-responded": "answered",
};

type OnApproval = (id: string, approved: boolean, reason?: string) => void;

/** A call of a tool, with what it was given and what came of it. */
export function ToolCard({ part, onApproval }: { part: DynamicToolUIPart; onApproval: OnApproval }) {
  const asks = part.state === "approval-requested";
  const state = STATES[part.state] ?? "running";
  return (
    <details className={`tool ${part.state}`} open={asks || undefined}>
      <summary>
        <Wrench />
        <span className="tool-name">{part.toolName.replaceAll("_", " ")}</span>
        <span className="tool-brief">{briefly(part.input)}</span>
        <span className="tool-state">{state}</span>
      </summary>
      <Value label="Arguments" value={part.input} />
      {part.state === "output-available" && <Value label="Result" value={part.output} />}
      {part.state === "output-error" && <Value label="Error" value={part.errorText} />}
      {part.state === "output-denied" && part.approval.reason && <Value label="Reason" value={part.approval.reason} />}
      {asks && <Approval id={part.approval.id} onApproval={onApproval} />}
    </details>
  );
}

function Approval({ id, onApproval }: { id: string; onApproval: OnApproval }) {
  const [reason, setReason] = useState("");
  return (
    <div className="approval" role="group" aria-label="Approval">
      <input
        value={reason}
        onChange={(event) => setReason(event.target.value)}
        placeholder="Reason (optional)"
        aria-label="Reason"
        maxLength={500}
      />
      <button type="button" onClick={() => onApproval(id, false, reason.trim() || undefined)}>
        <Cross /> Deny
      </button>
      <button type="button" className="primary" onClick={() => onApproval(id, true, reason.trim() || undefined)}>
        <Check /> Approve
      </button>
    </div>
  );
}

function Value({ label, value }: { label: string; value: unknown }) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return (
    <div className="value">
      <span>{label}</span>
      <pre tabIndex={0} dir="ltr">{text}</pre>
    </div>
  );
}

/** The texts and numbers of a call's arguments, as far as they fit on a line. */
function briefly(input: unknown): string {
  const values = Object.values((input ?? {}) as object).filter((value) => ["string", "number"].includes(typeof value));
  return values.join(", ").slice(0, 80);
}
