import type { components } from "./api.ts";

/** An RFC 9457 problem document of the service. Tell problems apart by `type`; `detail` is for people. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  instance?: string;
  errors?: { path: string; message: string }[];
  /** Seconds after which it is worth another try. */
  retry_after?: number;
  turn_id?: number;
  conversation_id?: number;
}

/** An error whose message is the problem's `detail`, with the whole document beside it. */
export class ProblemError extends Error {
  override name = "ProblemError";
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(problem.detail);
    this.problem = problem;
  }
}

/** The problem document of an error, if the service sent one. */
export function problemOf(error: unknown): Problem | undefined {
  return error instanceof ProblemError ? error.problem : undefined;
}

/** The error that a response stands for. A proxy's page is no problem document, so its text is told instead. */
export async function errorOf(response: Response): Promise<Error> {
  const text = await response.text();
  const isProblem = response.headers.get("Content-Type")?.startsWith("application/problem+json");
  return isProblem ? new ProblemError(JSON.parse(text)) : new Error(`HTTP ${response.status}: ${text}`);
}

export type Schemas = components["schemas"];
