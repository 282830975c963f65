import { problemOf } from "@chatapi/ai-sdk";
import { useMemo } from "react";

import { useCountdown, useOnline } from "./parts.tsx";

interface Props {
  error: Error;
  /** Try again; nothing where that would not help. */
  again: (() => void) | undefined;
  reconnecting: boolean;
}

/** What is the matter, in the service's own words, and when it is worth another try. */
export function Trouble({ error, again, reconnecting }: Props) {
  const online = useOnline();
  const problem = problemOf(error);
  const until = useMemo(() => (problem?.retry_after ? Date.now() + problem.retry_after * 1_000 : undefined), [problem]);
  const seconds = useCountdown(until);
  if (!online || (problem === undefined && reconnecting)) {
    return <p role="status" className="trouble calm">{online ? "The connection was lost. Reading on…" : "You are offline. The answer goes on when you are back."}</p>;
  }
  return (
    <div role="alert" className="trouble">
      <strong>{problem?.title ?? "The service was not reached"}</strong>
      <p>{problem?.detail ?? "The connection was lost."}</p>
      {again && (
        <button type="button" onClick={again} disabled={seconds > 0}>
          {seconds > 0 ? `Try again in ${inWords(seconds)}` : "Try again"}
        </button>
      )}
    </div>
  );
}

function inWords(seconds: number): string {
  if (seconds < 90) return `${seconds} s`;
  const minutes = Math.ceil(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.ceil(minutes / 60)} h`;
}
