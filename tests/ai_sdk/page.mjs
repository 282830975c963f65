// The component of docs/frontend.md in a DOM, used as somebody would:  node page.mjs '{"url": …, "user": …, "token": …}'
// Prints what the page shows after each step, a JSON object of lists of lines.
import { readFile, writeFile } from "node:fs/promises";

import { transform } from "esbuild";
import { Window } from "happy-dom";

const window = new Window({ url: "http://localhost/" });
Object.assign(globalThis, { window, document: window.document, IS_REACT_ACT_ENVIRONMENT: false });
globalThis.navigator ??= window.navigator; // Node 20 has none

const { ChatapiTransport } = await import("@chatapi/ai-sdk");
const { code } = await transform(await readFile("Chat.jsx", "utf8"), { loader: "jsx", jsx: "automatic" });
await writeFile("Chat.js", code);
const { show } = await import("./app.js");

const { url, user, token } = JSON.parse(process.argv[2]);
const asked = [];
const { fetch } = globalThis;
globalThis.fetch = (address, options) => {
  asked.push(`${options?.method ?? "GET"} ${new URL(address).pathname.replace(`/api/${user}`, "")}`);
  return fetch(address, options);
};
let current = token;
const { root, transport } = await mounted();

function mounted(conversationId) {
  document.body.innerHTML = "<main></main>";
  return show(document.querySelector("main"), { url, userId: user, token: async () => current, conversationId });
}

const shown = () => [...document.querySelectorAll("article")].map((each) => each.textContent);
const button = (label) => [...document.querySelectorAll("button")].find((each) => each.textContent === label);
const idle = () => !button("Stop") && shown().length > 0;

/** Until it is so; the page is looked at again whenever it may have changed. */
async function until(so, what) {
  const end = Date.now() + 120_000;
  while (!so()) {
    if (Date.now() > end) throw new Error(`never ${what}: ${document.body.innerHTML}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function write(text) {
  await until(() => document.querySelector("input"), "a field");
  const input = document.querySelector("input");
  Object.getOwnPropertyDescriptor(window.HTMLInputElement.prototype, "value").set.call(input, text);
  input.dispatchEvent(new window.Event("input", { bubbles: true }));
  await until(() => button("Send") && !button("Send").disabled, "ready to send");
  button("Send").click();
}

async function press(label) {
  await until(() => button(label), `a button ${label}`);
  button(label).click();
}

async function answered(count, ending) {
  await until(() => idle() && shown().length === count && shown().at(-1).endsWith(ending), `an answer ${ending}`);
  return shown();
}

/** The reader comes back to the page; and again, since it may not have been told yet that its last answer has ended. */
async function back(seen) {
  const come = () => document.dispatchEvent(new window.Event("visibilitychange"));
  const again = setInterval(come, 1_000);
  come();
  try {
    return await seen();
  } finally {
    clearInterval(again);
  }
}

/** Another tab sends a message, and waits for the answer. */
async function elsewhere(said) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const content = typeof said === "string" ? { message: said } : said;
  const body = JSON.stringify({ ...content, conversation_id: transport.conversationId });
  const response = await fetch(`${url}/api/chat`, { method: "POST", headers, body });
  if (!response.ok) throw new Error(await response.text());
}

const steps = {};
await write('call add_task {"title": "milk"}');
steps.sent = await answered(2, "add_task: done. ");
await write("say Hello.");
steps.second = await answered(4, "Hello.");
await press("Another answer");
await until(() => button("Stop") || transport.sent.path.endsWith("regenerate"), "sent");
await until(() => transport.turnId === 3, "a third turn");
steps.anew = await answered(4, "Hello.");
await press("Edit");
await until(() => document.querySelector("input").value === "say Hello.", "the message to edit");
await write("say Goodbye.");
steps.edited = await answered(4, "Goodbye.");
// An input has one line, and the fake agent reads lines: U+2028 is a line to Python and none to an input.
await write(`say Once\u2028gate ${user}`);
await until(() => shown().at(-1).endsWith("Once"), "the beginning");
await press("Stop");
steps.stopped = await answered(6, "OnceThe answer was stopped.");
await write("once fail\u2028say Better.");
await until(() => document.querySelector("[role=alert]"), "an alert");
steps.alert = [document.querySelector("[role=alert]").textContent];
await press("Try again");
steps.again = await answered(8, "Better.");
steps.asked = [...asked];
await elsewhere("say Elsewhere.");
steps.news = await back(() => answered(10, "Elsewhere."));
const running = elsewhere(`say Far away\u2028gate ${user}`).catch(() => "cancelled");
const second = new ChatapiTransport({ url, userId: user, token: async () => token, conversationId: 1 });
while ((await second.history()).at(-1).metadata.status !== "running");
await back(() => until(() => shown().at(-1).endsWith("Far away"), "what is said elsewhere"));
await press("Stop");
await running;
steps.followed = await answered(12, "Far awayThe answer was stopped.");
await elsewhere("say Elsewhere again.");
await press("Another answer");
await until(() => document.querySelector("[role=alert]") && shown().length === 14, "the conversation as it is");
steps.refused = [document.querySelector("[role=alert]").textContent, ...shown()];
current = "expired";
await press("Another answer");
await until(() => document.querySelector("[role=alert]")?.textContent.includes("token"), "told of its token");
await until(() => shown().length === 14, "the conversation as it was");
steps.unauthenticated = shown();
current = token;
await elsewhere("say And again.");
await press("Edit");
await write("say Mine.");
await until(() => shown().length === 16, "the conversation as it is");
steps.draft = [document.querySelector("input").value];
const headers = { Authorization: `Bearer ${token}` };
const form = new FormData();
const gif = atob("R0lGODlhAQABAAAAACwAAAAAAQABAAAC");
form.append("file", new Blob([Uint8Array.from(gif, (letter) => letter.charCodeAt(0))]), "dot.gif");
const { id } = await (await fetch(`${url}/api/${user}/files`, { method: "POST", headers, body: form })).json();
await elsewhere({ parts: [{ type: "file", file_id: id }, { type: "text", text: "say A dot." }] });
root.unmount();
const { transport: reloaded } = await mounted("1");
await until(() => shown().length === 18 && document.querySelector("img"), "the history with its picture");
steps.reloaded = shown();
const picture = document.querySelector("img");
steps.picture = [picture.alt, (await (await fetch(picture.src)).blob()).size];
await write("ask delete_task {\"task_id\": 1}\u2028wait\u2028say Well.");
await press("Deny");
steps.denied = (await answered(20, "Well.")).slice(18);
await write("ask delete_task {\"task_id\": 1}\u2028wait\u2028say Well.");
await until(() => button("Approve"), "asked again");
const { parts } = (await new ChatapiTransport({ url, userId: user, token: async () => token, conversationId: 1 }).history()).at(-1);
const given = { id: parts.at(-1).approval.id, approved: false };
await reloaded.request(`/turns/${reloaded.turnId}/answers`, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ answers: [given] }),
});
await press("Approve");
await until(() => !document.querySelector("[role=alert]") && shown().at(-1).endsWith("Well."), "what was answered elsewhere");
steps.late = (await answered(22, "Well.")).slice(20);
console.log(JSON.stringify(steps));
process.exit(0);
