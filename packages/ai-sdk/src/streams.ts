import { errorOf } from "./problems.ts";

/** `fetch` of a stream that gives up when nothing comes for `silence` milliseconds, not even a heartbeat. */
export async function fetchStream(address: RequestInfo | URL, options: RequestInit | undefined, silence: number) {
  const quiet = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => quiet.abort(new TypeError("network: the stream is silent")), silence);
  };
  heard();
  const signal = AbortSignal.any([quiet.signal, options?.signal ?? quiet.signal]);
  const response = await fetch(address, { ...options, signal }).catch((error: unknown) => {
    clearTimeout(timer);
    throw error;
  });
  const streams = response.headers.get("Content-Type")?.startsWith("text/event-stream");
  if (!streams) clearTimeout(timer);
  if (!response.ok) throw await errorOf(response);
  if (response.status === 204) return response;
  if (!streams || !response.body) {
    throw new Error("The answer is no event stream. Is `Accept: text/event-stream` sent?");
  }
  const watch = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(piece, controller) {
      heard();
      controller.enqueue(piece);
    },
    flush: () => clearTimeout(timer),
  });
  return new Response(response.body.pipeThrough(watch), response);
}
