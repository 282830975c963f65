import { errorOf, ProblemError, type Schemas } from "@chatapi/ai-sdk";

const TOKEN = "chatapi-token";
const EARLY = 60_000; // ask for a new token so many milliseconds before the old one ends

/** What the service says to a page that is opened: a token if it signs in by itself, or who issues tokens. */
interface Opening {
  user_id: string | null;
  token: string | null;
  expires_at: string | null;
  issuer: string | null;
}

/** A signed-in user: every request of the page goes through here. */
export class Session {
  readonly userId: string;
  readonly demo: boolean;
  #token: string | undefined;
  #ends: number;

  /** `expiresAt` is of a token that the service gave by itself; the user gave any other. */
  constructor(me: Pick<Schemas["Me"], "user_id" | "demo">, token: string | undefined, expiresAt?: string) {
    this.userId = me.user_id;
    this.demo = me.demo;
    this.#token = token;
    this.#ends = expiresAt ? Date.parse(expiresAt) : Infinity;
  }

  get canSignOut(): boolean {
    return this.#token !== undefined && this.#ends === Infinity;
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

/** Nobody is signed in: how to get a token, and why the last one was refused. */
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

/** Sign in with the token of this tab, with the service's own, or as its demo user. */
export async function signIn(given = sessionStorage.getItem(TOKEN) ?? undefined): Promise<Session | SignedOut> {
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
  if (opened.user_id !== null) return new Session({ user_id: opened.user_id, demo: false }, opened.token!, opened.expires_at!);
  const me = await bearerOf(undefined);
  return me instanceof ProblemError ? { issuer: opened.issuer } : new Session(me, undefined);
}

export function signOut(): void {
  sessionStorage.removeItem(TOKEN);
}
