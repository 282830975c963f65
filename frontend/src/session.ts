import { errorOf, ProblemError, problemOf, type Schemas } from "@chatapi/ai-sdk";

const TOKEN = "chatapi-token";
const DRAFT = "chatapi-draft";
const EARLY = 60_000; // ask for a new token so many milliseconds before the old one ends

const LARGEST_PAGE = 100; // of a list, as the service has it

interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

type Conversations = Page<Schemas["Conversation"]>;

/** What the page learns when it is opened: a token and the user's first conversations if the service signs in by itself, else who issues tokens. */
interface Opening {
  user_id: string | null;
  token: string | null;
  expires_at: string | null;
  conversations: Conversations | null;
  issuer: string | null;
}

interface Listed<T> {
  count?: number;
  /** More of the query, with the `&` before it. */
  filter?: string;
  first?: Page<T> | undefined;
}

/** A signed-in user: every request of the page goes through here. */
export class Session {
  readonly userId: string;
  readonly demo: boolean;
  #token: string | undefined;
  #ends: number;
  #conversations: Conversations | undefined;

  /** `opened` is how the service signed in by itself; the user gave any other token. */
  constructor(me: Pick<Schemas["Me"], "user_id" | "demo">, token: string | undefined, opened?: Opening) {
    this.userId = me.user_id;
    this.demo = me.demo;
    this.#token = token;
    this.#ends = opened?.expires_at ? Date.parse(opened.expires_at) : Infinity;
    this.#conversations = opened?.conversations ?? undefined;
  }

  get canSignOut(): boolean {
    return this.#token !== undefined && this.#ends === Infinity;
  }

  /** The list that came with the token; only once, because later it may be out of date. */
  takeConversations(): Conversations | undefined {
    const first = this.#conversations;
    this.#conversations = undefined;
    return first;
  }

  /** What this user has written in a conversation, or in a new one, and not sent; nobody is given what another user wrote. */
  draft(conversationId: number | undefined): string {
    return sessionStorage.getItem(this.#draftOf(conversationId)) ?? "";
  }

  /** Keep it for as long as the tab is there; an empty text is forgotten. */
  keepDraft(conversationId: number | undefined, text: string): void {
    if (text) sessionStorage.setItem(this.#draftOf(conversationId), text);
    else sessionStorage.removeItem(this.#draftOf(conversationId));
  }

  #draftOf(conversationId: number | undefined): string {
    return `${DRAFT} ${conversationId ?? "new"} ${this.userId}`;
  }

  /** The token for the next request; one that the service gave by itself is fetched anew before it ends. */
  token = async (): Promise<string | undefined> => {
    if (Date.now() > this.#ends - EARLY) {
      const { token, expires_at } = await opening();
      this.#token = token ?? undefined;
      this.#ends = expires_at ? Date.parse(expires_at) : Infinity;
    }
    return this.#token;
  };

  /** The answer's JSON; undefined where there is none. Throws a ProblemError with what the service says is the matter. */
  async request<T>(method: string, path: string, body?: unknown): Promise<T> {
    const response = await this.send(method, path, body);
    return (response.status === 204 ? undefined : await response.json()) as T;
  }

  /** The first `count` items of a list, and whether there are more; `first` is a page of it that is there already. */
  async list<T>(path: string, { count = Infinity, filter = "", first }: Listed<T> = {}): Promise<{ items: T[]; hasMore: boolean }> {
    const address = `${path}?limit=${Math.min(count, LARGEST_PAGE)}${filter}`;
    let page = first ?? (await this.request<Page<T>>("GET", address));
    const items = [...page.items];
    while (items.length < count && page.next_cursor !== null) {
      page = await this.request("GET", `${address}&cursor=${encodeURIComponent(page.next_cursor)}`);
      items.push(...page.items);
    }
    return { items, hasMore: page.next_cursor !== null };
  }

  async send(method: string, path: string, body?: unknown, options: RequestInit = {}): Promise<Response> {
    const token = await this.token();
    const headers: Record<string, string> = token === undefined ? {} : { Authorization: `Bearer ${token}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const address = `/api/${encodeURIComponent(this.userId)}${path}`;
    const json = body === undefined ? null : JSON.stringify(body);
    const response = await fetch(address, { ...options, method, headers, body: json });
    if (!response.ok) throw await errorOf(response);
    return response;
  }
}

/** Why a request came to nothing, in the service's words if it was reached. */
export function reasonOf(error: Error): string {
  return problemOf(error)?.detail ?? "The service was not reached.";
}

/** Nobody is signed in: how to get a token, and why the last one was refused, if one was. */
export interface SignedOut {
  issuer: string | null;
  refused?: string | undefined;
}

async function opening(): Promise<Opening> {
  const response = await fetch("/playground/session", { method: "POST" });
  if (!response.ok) throw await errorOf(response);
  return response.json();
}

/** Whom the service takes the bearer of this token for; the error if it takes none. */
async function bearerOf(token: string | undefined): Promise<Schemas["Me"] | ProblemError> {
  const headers: Record<string, string> = token === undefined ? {} : { Authorization: `Bearer ${token}` };
  const response = await fetch("/api/me", { headers });
  if (response.ok) return response.json();
  const error = await errorOf(response);
  if (!(error instanceof ProblemError) || error.problem.status !== 401) throw error;
  return error;
}

/** Sign in with the token of this tab, with the service's own, or as its demo user. `refused` is why the last session has ended. */
export async function signIn(given = sessionStorage.getItem(TOKEN) ?? undefined, refused?: string): Promise<Session | SignedOut> {
  if (given !== undefined) {
    const me = await bearerOf(given);
    if (me instanceof ProblemError) {
      sessionStorage.removeItem(TOKEN);
      return { issuer: (await opening()).issuer, refused: me.message };
    }
    sessionStorage.setItem(TOKEN, given);
    return new Session(me, given);
  }
  const opened = await opening();
  if (opened.user_id !== null) return new Session({ user_id: opened.user_id, demo: false }, opened.token!, opened);
  const me = await bearerOf(undefined);
  return me instanceof ProblemError ? { issuer: opened.issuer, refused } : new Session(me, undefined);
}

/** Forget the token; and what was written, too, unless the user is to go on with it after signing in again. */
export function signOut(refused: string | undefined): void {
  if (refused === undefined) sessionStorage.clear();
  else sessionStorage.removeItem(TOKEN);
}
