import type { DynamicToolUIPart, FileUIPart, UIMessage } from "ai";

/** What the service says of a message beside its parts. */
export interface ChatapiMetadata {
  conversation_id?: number;
  turn_id?: number;
  message_id?: number;
  status?: string;
  /** The turn waits for approvals, or for results of the page's own tools. */
  waiting?: boolean;
  /** The stream began while the turn was queued; false once the turn has begun. */
  queued?: boolean;
  feedback?: { rating: "up" | "down"; comment: string | null };
  /** `cost` is in US dollars, and there if all prices are known. */
  usage?: { input_tokens?: number; output_tokens?: number; cached_input_tokens?: number; cost?: number };
}

export type ChatapiMessage = UIMessage<ChatapiMetadata>;

export type Answer =
  | { id: string; approved: boolean; reason?: string }
  | { id: string; output: unknown }
  | { id: string; error: string };

export type Part = { type: "text"; text: string } | { type: "file"; file_id: number };

/** A tool that the page carries out itself; `parameters` is the JSON Schema of an object. */
export interface ClientTool {
  name: string;
  description?: string;
  parameters: object;
}

export function textOf(message: UIMessage): string {
  return message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

export function filesOf(message: UIMessage): FileUIPart[] {
  return message.parts.filter((part) => part.type === "file");
}

/** The id of a file of the service, in an address such as …/files/7. */
export function fileIn(url: string): number | undefined {
  return Number(url.match(/\/files\/(\d+)$/)?.[1]) || undefined;
}

/** The turn that a message's id names: `turn_7` and `question_7` do, the ids of the SDK's own do not. */
export function turnIn(messageId: string | undefined): number | undefined {
  return Number(messageId?.match(/^(?:turn|question)_(\d+)$/)?.[1]) || undefined;
}

/**
 * Whether everything that the last turn waits for is answered: for `sendAutomaticallyWhen` of `useChat`. The SDK's own helper
 * for calls of tools does not look at approvals, and would send before these are given.
 */
export function answersAreReady({ messages }: { messages: UIMessage[] }): boolean {
  const last = messages.at(-1);
  const metadata = last?.metadata as ChatapiMetadata | undefined;
  if (last === undefined || metadata?.waiting !== true) return false;
  return !callsIn(last).some(isAsked) && answersIn(last).length > 0;
}

/**
 * The calls of the page's own tools that the turn of this message, the last one, waits for. `onToolCall` of `useChat` is no
 * sign of them: it is called again for each replay of a stream, and not at all where the turn waited before the page was opened.
 */
export function callsToCarryOut(message: ChatapiMessage | undefined): DynamicToolUIPart[] {
  if (message?.metadata?.waiting !== true) return [];
  return callsIn(message).filter((call) => call.state === "input-available" && !call.providerExecuted);
}

/**
 * The answers that the page has given in the last step: approvals, and results of its own tools, which are those that are
 * not `providerExecuted`.
 */
export function answersIn(message: UIMessage): Answer[] {
  return callsIn(message).flatMap(answerIn);
}

/** The calls of the last step, which has all that a turn waits for. */
function callsIn(message: UIMessage): DynamicToolUIPart[] {
  const step = message.parts.slice(message.parts.findLastIndex((part) => part.type === "step-start") + 1);
  return step.filter((part) => part.type === "dynamic-tool");
}

function isAsked({ state, providerExecuted }: DynamicToolUIPart): boolean {
  return state === "approval-requested" || (state === "input-available" && !providerExecuted);
}

function answerIn(part: DynamicToolUIPart): Answer[] {
  if (part.state === "approval-responded") {
    const { id, approved, reason } = part.approval;
    return [reason === undefined ? { id, approved } : { id, approved, reason }];
  }
  if (part.providerExecuted) return [];
  if (part.state === "output-available") return [{ id: part.toolCallId, output: part.output }];
  if (part.state === "output-error") return [{ id: part.toolCallId, error: part.errorText }];
  return [];
}
