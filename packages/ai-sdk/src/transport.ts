import type { ChatTransport, FileUIPart, UIMessageChunk } from "ai";
import { DefaultChatTransport } from "ai";

import type { ChatapiMessage, ChatapiMetadata, ClientTool, Part } from "./messages.ts";
import { answersIn, fileIn, filesOf, textOf, turnIn } from "./messages.ts";
import type { Problem } from "./problems.ts";
import { errorOf, ProblemError, problemOf } from "./problems.ts";
import { fetchStream } from "./streams.ts";

export interface ChatapiOptions {
  /** The service, such as `https://chat.example.com`; the page's own origin if it is empty. */
  url: string;
  userId: string;
  /** Gives the user's token, fetched anew when need be; nothing for a service in demo mode. */
  token?: () => string | undefined | Promise<string | undefined>;
  /** The conversation to go on with, as a number or as text from a route. Left out, the first message begins one. */
  conversationId?: number | string | undefined;
  /** Milliseconds without a word or a heartbeat after which a stream is given up. */
  silence?: number;
  /** Tools that the page carries out itself. */
  clientTools?: ClientTool[];
}

/** What becomes of a message while the conversation is busy with another: an error 409, a place in the queue, or the other's end. */
export type WhenBusy = "reject" | "queue" | "interrupt";

/** What a call of `sendMessage` or `regenerate` may say in `metadata`. */
export interface RequestMetadata {
  /** Send the last request again, with its key. */
  again?: boolean;
  whenBusy?: WhenBusy;
}

type SendOptions = Parameters<ChatTransport<ChatapiMessage>["sendMessages"]>[0];
type ReconnectOptions = Parameters<ChatTransport<ChatapiMessage>["reconnectToStream"]>[0];
type Content = { message: string } | { parts: Part[] };

/** A request, as it must be sent again to the letter. */
interface Sent {
  key: string;
  path: string;
  body: object;
  /** The id of the question on the page. */
  question: string;
  /** What was written for it, which is given back where it is refused. */
  message: string;
  /** The turn that goes on with these answers. */
  answered?: number | undefined;
  /** The turn that is answered anew, and those that its answer takes the place of. */
  anew?: number | undefined;
  replaces?: (number | undefined)[];
  /** Why it is not sent at all. */
  refused?: ProblemError;
}

/** A turn as it is read here: in the stream of a request, and in those that `resumeStream()` reads on in. */
interface Reading {
  /** Known once the first chunk of a request's stream is there. */
  turn?: number | undefined;
  /** What was sent for it. A turn that was begun elsewhere, or before a reload, has none. */
  sent?: Sent | undefined;
  /** Nothing was sent, so an error before the first chunk is one of the stream. */
  resumed?: boolean;
  /** To be cancelled as soon as the turn is known. */
  cancelled?: boolean;
  /** The end of the turn was read. */
  ended?: boolean;
  signal?: AbortSignal | undefined;
  begun?: Promise<ReadableStream<UIMessageChunk>>;
}

/** The transport of one conversation, for `useChat`. */
export class ChatapiTransport extends DefaultChatTransport<ChatapiMessage> {
  base: string;
  conversationId: number | undefined;
  /** The questions that wait for their turns, the next one first, as far as they are known here. Replaced, never changed. */
  queued: readonly ChatapiMessage[] = [];
  clientTools: ClientTool[];
  /** How often a stream was asked for: what was read while it grew is old. */
  streams = 0;
  #token: NonNullable<ChatapiOptions["token"]>;
  /** The conversation's turns, as far as they are known here; of several answers the last one's. */
  #order: number[] = [];
  /** The turns of the answers before the last one. */
  #replaced = new Set<number>();
  /** The turn of a question, by the question's id on this page. */
  #turns = new Map<string, number>();
  /** The turn that is read, or was read last. */
  #reading: Reading = {};
  /** The history was read since: what the next stream that is resumed reads. */
  #found: Reading | undefined;
  /** What was to be queued, and no answer came. */
  #unsure: { body: string; key: string } | undefined;
  #waiting = false;

  constructor({ url, userId, token = () => undefined, conversationId, silence = 35_000, clientTools = [] }: ChatapiOptions) {
    super({
      fetch: (address, options) => fetchStream(address, options, silence),
      headers: () => this.#authorization(),
      prepareSendMessagesRequest: (request) => this.#prepare(request),
      prepareReconnectToStreamRequest: () => ({ api: this.#streamUrl() }),
    });
    this.base = `${url}/api/${encodeURIComponent(userId)}`;
    this.conversationId = conversationId === undefined ? undefined : Number(conversationId);
    this.clientTools = clientTools;
    this.#token = token;
  }

  /** The turn that is read, or was read last, once its first chunk is there. */
  get turnId(): number | undefined {
    return this.#reading.turn;
  }

  /** What was sent for that turn from this page. */
  get sent(): Sent | undefined {
    return this.#reading.sent;
  }

  override async sendMessages({ abortSignal, ...options }: SendOptions) {
    const metadata = options.metadata as RequestMetadata | undefined;
    if (!metadata?.again && metadata?.whenBusy !== "interrupt") await this.#endStopped();
    const reading = this.#read({ sent: metadata?.again ? this.sent : undefined, signal: abortSignal });
    const asked = reading.sent?.answered
      ? this.#answerAgain(reading.sent, options)
      : super.sendMessages({ ...options, abortSignal: undefined });
    reading.begun = asked.then((stream) => this.#watched(stream, reading));
    return reading.begun;
  }

  override async reconnectToStream(options: ReconnectOptions) {
    if (this.conversationId === undefined) return null; // nothing has begun yet
    const begun = this.turnId === undefined ? { resumed: true } : this.#reading;
    const reading = Object.assign(this.#read(this.#found ?? begun), { ended: false, signal: options.abortSignal });
    const stream = await super.reconnectToStream(options);
    return stream && this.#watched(stream, reading);
  }

  /** End the turn, as soon as it is known. The stream then ends by itself, within a second. */
  async cancel(): Promise<void> {
    const turn = this.#found?.turn ?? this.turnId;
    if (turn === undefined) this.#reading.cancelled = true;
    else await this.#cancel(turn);
  }

  /** Whether it is the stream that was lost, and not the turn: then `resumeStream()` reads on. */
  lost(error: Error): boolean {
    const { turn, resumed = false } = this.#reading;
    return turn === undefined ? resumed : turnGoesOn(problemOf(error));
  }

  /**
   * Whether nothing has changed, though `useChat` shows it already: messages that are cut for another answer, or answers
   * to a turn that waits for them no more. To send it again would not help.
   */
  refused(error: Error): boolean {
    const problem = problemOf(error);
    if (problem === undefined || this.turnId !== undefined) return false;
    const isLate = this.sent?.answered !== undefined && problem.status === 409;
    return Boolean(this.sent?.anew || this.sent?.refused || isLate);
  }

  /**
   * The conversation so far, its newest 100 messages, as `messages` for `useChat`. `queued` has the questions that come
   * after them.
   */
  async history(): Promise<ChatapiMessage[]> {
    if (this.conversationId === undefined) return [];
    const streams = this.streams;
    const all = await this.#messages(100);
    const messages = all.filter((message) => !isQueued(message));
    if (this.streams !== streams) return messages;
    this.queued = all.filter(isQueued);
    this.#order = [...new Set(messages.map((message) => this.#turnOf(message)).filter((turn) => turn !== undefined))];
    this.#order.forEach((turn) => this.#replaced.delete(turn));
    const last = messages.at(-1);
    const running = last?.metadata?.status === "running" ? last.metadata.turn_id : undefined;
    this.#found = this.turnId !== undefined && this.turnId === this.#order.at(-1) ? this.#reading : { turn: running, resumed: true };
    this.#waiting = last?.metadata?.waiting ?? false;
    return messages;
  }

  /**
   * As `history()`, if the conversation has gone on elsewhere, in another tab or on another device, or if its last turn
   * was not read to its end here.
   */
  async news(): Promise<ChatapiMessage[] | undefined> {
    const { turn, ended, signal } = this.#found ? {} : this.#reading;
    const isCut = turn !== undefined && !ended && !signal?.aborted;
    const known = this.#state;
    const streams = this.streams;
    const messages = await this.history();
    if (this.streams !== streams) return undefined;
    return isCut || this.#state !== known ? messages : undefined;
  }

  /** Look what is queued behind the turn that is read. */
  async lookAtQueue(): Promise<void> {
    if (this.turnId === undefined) return;
    const all = await this.#messages(1);
    const newest = all.find((message) => !isQueued(message));
    if (newest?.metadata?.turn_id === this.turnId) this.queued = all.filter(isQueued);
  }

  /** Keep a file for a message: put what comes back among the message's `files`. */
  async upload(file: Blob, name: string): Promise<FileUIPart> {
    const form = new FormData();
    form.append("file", file, name);
    const response = await this.request("/files", { method: "POST", body: form });
    const stored = (await response.json()) as { id: number; name: string; media_type: string };
    const path = this.base.replace(/^\w+:\/\/[^/]+/, ""); // as messages have it that come from the service
    return { type: "file", mediaType: stored.media_type, filename: stored.name, url: `${path}/files/${stored.id}` };
  }

  /** Send a message that is answered after what runs now, and do not wait for that: `readNext` reads the answer. */
  async queue(message: ChatapiMessage): Promise<{ conversation_id: number; turn_id: number }> {
    if (this.conversationId === undefined) await this.#reading.begun; // which tells its id
    const content = await this.#chatBody(message, "queue");
    const body = JSON.stringify(content);
    if (this.#unsure?.body !== body) this.#unsure = { body, key: newKey() };
    const response = await this.#post("/chat", content, this.#unsure.key).catch((error: unknown) => {
      if (error instanceof ProblemError) this.#unsure = undefined;
      throw error;
    });
    const begun = await firstChunk(response);
    this.#unsure = undefined;
    const { conversation_id, turn_id } = begun;
    const queued = { ...message, id: `question_${turn_id}`, metadata: { conversation_id, turn_id, status: "queued" } };
    const others = this.queued.filter((each) => each.metadata?.turn_id !== turn_id);
    this.queued = [...others, queued].sort((one, other) => one.metadata!.turn_id! - other.metadata!.turn_id!);
    return begun;
  }

  /** Take a queued message back. One that has begun meanwhile stays in `queued`, until it is read. */
  async unqueue(turnId: number): Promise<void> {
    try {
      await this.request(`/turns/${turnId}`, { method: "DELETE" });
    } catch (error) {
      if (problemOf(error as Error)?.status === 409) return;
      if (problemOf(error as Error)?.status !== 404) throw error;
    }
    this.#forget(turnId);
  }

  /**
   * Take the next question out of `queued`, and have `resumeStream()` read its turn. For a page whose `useChat` is free,
   * which then shows the question and calls that.
   */
  readNext(): ChatapiMessage | undefined {
    const [next, ...rest] = this.queued;
    if (next === undefined) return undefined;
    this.queued = rest;
    this.#read({ turn: next.metadata!.turn_id, resumed: true });
    return next;
  }

  /** Whatever was read before is over. */
  #read(reading: Reading): Reading {
    this.streams++;
    this.#found = undefined;
    return (this.#reading = reading);
  }

  #forget(turnId: number): void {
    this.queued = this.queued.filter((each) => each.metadata?.turn_id !== turnId);
  }

  /** A request for the user's `path`. Throws what the service says is the matter, but for 409: a turn that has ended already. */
  async request(path: string, options: RequestInit = {}): Promise<Response> {
    const headers = { ...(options.headers as Record<string, string>), ...(await this.#authorization()) };
    const response = await fetch(this.base + path, { ...options, headers });
    if (!response.ok && !(response.status === 409 && path.endsWith("/cancel"))) throw await errorOf(response);
    return response;
  }

  /** The newest messages, and then what is queued. */
  async #messages(limit: number): Promise<ChatapiMessage[]> {
    const query = `order=desc&limit=${limit}&format=ui`;
    const response = await this.request(`/conversations/${this.conversationId}/messages?${query}`);
    const { items } = (await response.json()) as { items: ChatapiMessage[] };
    return items.reverse();
  }

  /** What another page may have changed. */
  get #state(): string {
    return JSON.stringify([this.#order.at(-1), this.#waiting, this.queued.map(({ id }) => id)]);
  }

  async #cancel(turn: number): Promise<void> {
    await this.request(`/turns/${turn}/cancel`, { method: "POST" });
  }

  #post(path: string, body: object, key: string): Promise<Response> {
    const headers = { Accept: "text/event-stream", "Content-Type": "application/json", "Idempotency-Key": key };
    return this.request(path, { method: "POST", headers, body: JSON.stringify(body) });
  }

  /** `useChat` has cut the message that goes on. So the answers are given again, and their turn is read from its beginning. */
  async #answerAgain({ path, body, key, answered }: Sent, options: ReconnectOptions): Promise<ReadableStream<UIMessageChunk>> {
    const response = await this.#post(path, body, key);
    void response.body?.cancel(); // the turn goes on without this reader
    this.#reading.turn = answered;
    return (await super.reconnectToStream(options))!; // a turn that is named has a stream
  }

  async #authorization(): Promise<Record<string, string>> {
    const token = await this.#token();
    return token === undefined ? {} : { Authorization: `Bearer ${token}` };
  }

  /** What is sent again must be the same to the letter, key included, though the conversation has its id by now. */
  async #prepare(request: {
    messages: ChatapiMessage[];
    messageId: string | undefined;
    trigger: string;
    headers: HeadersInit | undefined;
    requestMetadata: unknown;
  }) {
    const { whenBusy } = (request.requestMetadata ?? {}) as RequestMetadata;
    const reading = this.#reading;
    reading.sent ??= await this.#asked(request, whenBusy).catch((error: unknown) => refusedSend(request.messages.at(-1)!, error));
    const { refused, key, path, body } = reading.sent;
    if (refused) throw refused;
    const headers = { ...(request.headers as object), Accept: "text/event-stream", "Idempotency-Key": key };
    return { api: this.base + path, body, headers };
  }

  /**
   * The new turn comes after `before`, that of the last message above the question. If the conversation has a turn there
   * already, the question was edited or is to be answered anew, and that turn gets another answer. The service gives it
   * to the last turn alone, and refuses it to others.
   */
  async #asked(
    { messages, messageId, trigger }: { messages: ChatapiMessage[]; messageId: string | undefined; trigger: string },
    whenBusy: WhenBusy | undefined,
  ): Promise<Sent> {
    const last = messages.at(-1)!;
    const key = newKey();
    const sent = { key, question: last.id, message: textOf(last), path: "/chat" };
    if (last.role === "assistant" && trigger === "submit-message") {
      const answered = this.#turnOf(last);
      return { ...sent, message: "", path: `/turns/${answered}/answers`, body: { answers: answersIn(last) }, answered };
    }
    const before = messages.slice(0, -1).map((each) => this.#turnOf(each)).findLast(Boolean);
    if (before !== undefined && this.#replaced.has(before)) {
      return { ...sent, body: {}, refused: superseded("The conversation goes on from another answer.") };
    }
    const unknown = before !== undefined && !this.#order.includes(before);
    const next = unknown ? undefined : this.#order[before === undefined ? 0 : this.#order.indexOf(before) + 1];
    const asksAgain = trigger === "regenerate-message";
    const own = (asksAgain ? turnIn(messageId) : undefined) ?? this.#turnOf(last);
    const anew = own ?? next;
    if (anew === undefined) return { ...sent, body: await this.#chatBody(last, whenBusy) };
    const path = `/turns/${anew}/regenerate`;
    if (own !== undefined && asksAgain) return { ...sent, path, anew, message: "", body: { client_tools: this.#offered } };
    return { ...sent, path, anew, body: { ...(await this.#content(last)), client_tools: this.#offered } };
  }

  async #chatBody(question: ChatapiMessage, whenBusy: WhenBusy | undefined): Promise<object> {
    return {
      ...(await this.#content(question)),
      conversation_id: this.conversationId,
      when_busy: whenBusy,
      client_tools: this.#offered,
    };
  }

  get #offered(): ClientTool[] | undefined {
    return this.clientTools.length > 0 ? this.clientTools : undefined;
  }

  /** A message's text, or its parts where it has files. A file that is not the service's yet is uploaded. */
  async #content(question: ChatapiMessage): Promise<Content> {
    const files = await Promise.all(filesOf(question).map((file) => this.#idOf(file)));
    const text = textOf(question);
    if (files.length === 0) return { message: text };
    const said: Part[] = text ? [{ type: "text", text }] : [];
    return { parts: [...files.map((file_id): Part => ({ type: "file", file_id })), ...said] };
  }

  async #idOf(file: FileUIPart): Promise<number> {
    const known = fileIn(file.url);
    if (known !== undefined) return known;
    Object.assign(file, await this.upload(bytesOf(file), file.filename ?? "file")); // it is sent again by its address
    return fileIn(file.url)!;
  }

  #turnOf(message: ChatapiMessage): number | undefined {
    return this.#turns.get(message.id) ?? message.metadata?.turn_id ?? turnIn(message.id);
  }

  /** A turn that is known is streamed even when it has ended meanwhile; without one, the conversation's active turn. */
  #streamUrl(): string {
    const query = this.turnId === undefined ? "" : `?turn_id=${this.turnId}`;
    return `${this.base}/chat/${this.conversationId}/stream${query}`;
  }

  /** The stream, once its first chunk is there: `stop()` hangs up no sooner, so that the turn is known. */
  async #watched(stream: ReadableStream<UIMessageChunk>, reading: Reading): Promise<ReadableStream<UIMessageChunk>> {
    let known = () => {};
    const begun = new Promise<void>((resolve) => (known = resolve));
    const { readable, writable } = new TransformStream<UIMessageChunk, UIMessageChunk>(
      {
        transform: (chunk, controller) => {
          if (chunk.type === "start") this.#began(reading, chunk.messageMetadata as ChatapiMetadata, controller);
          known();
          reading.ended ||= ["finish", "abort"].includes(chunk.type);
          if (chunk.type === "error") {
            const { problem } = chunk as unknown as { problem?: Problem };
            reading.ended = !turnGoesOn(problem);
            return controller.error(problem ? new ProblemError(problem) : new Error(chunk.errorText));
          }
          if (chunk.type === "finish") {
            this.#waiting = (chunk.messageMetadata as ChatapiMetadata | undefined)?.waiting ?? false;
          }
          if (reading.ended) reading.sent?.replaces?.forEach((turn) => turn !== undefined && this.#replaced.add(turn));
          controller.enqueue(chunk);
        },
        flush: (controller) => {
          if (!reading.ended) controller.error(new TypeError("network: the stream was cut"));
        },
      },
      undefined,
      { highWaterMark: 1 },
    );
    const read = stream.pipeTo(writable).catch(() => {}); // the reader of `readable` is told
    await Promise.race([begun, read]);
    return readable.pipeThrough(new TransformStream(), reading.signal ? { signal: reading.signal } : {});
  }

  #began(reading: Reading, metadata: ChatapiMetadata, controller: TransformStreamDefaultController): void {
    const turnId = metadata.turn_id!;
    const { sent, cancelled } = reading;
    this.conversationId = metadata.conversation_id;
    reading.turn = turnId;
    this.#forget(turnId);
    if (!this.#order.includes(turnId)) {
      if (sent?.anew) sent.replaces = [sent.anew, this.#order.pop()];
      this.#order.push(turnId);
    }
    if (sent) this.#turns.set(sent.question, turnId);
    if (cancelled) this.#cancel(turnId).catch((error: unknown) => controller.error(error));
  }

  /** A turn that `stop()` has hung up on goes on; before the next message it is cancelled, and its end waited for. */
  async #endStopped(): Promise<void> {
    const reading = this.#reading;
    if (!reading.signal?.aborted) return;
    await reading.begun?.catch(() => {});
    if (reading.turn === undefined || reading.ended) return;
    await this.#cancel(reading.turn);
    const stream = await this.request(`/chat/${this.conversationId}/stream?turn_id=${reading.turn}`);
    await stream.text();
  }
}

/** A key for one request. Browsers have no `crypto.randomUUID` for pages that come by plain HTTP from another machine. */
function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whether it is only the stream that an error has ended. */
function turnGoesOn(problem: Problem | undefined): boolean {
  return problem?.turn_id === undefined || problem.type.endsWith(":restarting");
}

function isQueued(message: ChatapiMessage): boolean {
  return message.metadata?.status === "queued";
}

/** What the first chunk of a stream tells. The turn goes on without a reader. */
async function firstChunk(response: Response): Promise<{ conversation_id: number; turn_id: number }> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let said = "";
  while (!said.includes("\n\n")) said += (await reader.read()).value ?? "\n\n";
  void reader.cancel();
  return JSON.parse(said.slice("data: ".length, said.indexOf("\n"))).messageMetadata;
}

function refusedSend(question: ChatapiMessage, error: unknown): Sent {
  if (!(error instanceof ProblemError)) throw error;
  return { key: "", path: "", body: {}, question: question.id, message: textOf(question), refused: error };
}

function superseded(detail: string): ProblemError {
  return new ProblemError({ type: "urn:chatapi:problem:turn-superseded", title: "The conversation has gone on", status: 409, detail });
}

/** The bytes of a data URL. Pages whose CSP forbids `fetch` of one can still send it. */
function bytesOf(file: FileUIPart): Blob {
  const data = file.url.match(/^data:[^,]*;base64,(.*)$/s)?.[1];
  if (data === undefined) {
    throw new ProblemError({
      type: "urn:chatapi:problem:validation-failed",
      title: "The request is not valid",
      status: 422,
      detail: "A file is sent as a data URL, or uploaded first; other addresses are not fetched.",
    });
  }
  return new Blob([Uint8Array.from(atob(data), (character) => character.charCodeAt(0))], { type: file.mediaType });
}
