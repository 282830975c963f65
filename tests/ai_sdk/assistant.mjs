// assistant-ui with the component of docs/frontend.md in a DOM:  node assistant.mjs '{"url": …, "user": …, "token": …}'
// Prints what the page shows after each step, a JSON object.
import { readFile, writeFile } from "node:fs/promises";

import { transform } from "esbuild";
import { Window } from "happy-dom";

const window = new Window({ url: "http://localhost/" });
const theirs = ["HTMLElement", "Element", "Node", "MutationObserver", "ResizeObserver", "getComputedStyle", "HTMLTextAreaElement", "DocumentFragment", "NodeFilter", "Event", "KeyboardEvent", "requestAnimationFrame", "cancelAnimationFrame"];
Object.assign(globalThis, { window, document: window.document, IS_REACT_ACT_ENVIRONMENT: false });
for (const name of theirs) globalThis[name] = typeof window[name] === "function" && !/^[A-Z]/.test(name) ? window[name].bind(window) : window[name];
globalThis.navigator ??= window.navigator;

const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { code } = await transform(await readFile("Assistant.jsx", "utf8"), { loader: "jsx", jsx: "automatic" });
await writeFile("Assistant.js", code);
const { Assistant, Threads } = await import("./Assistant.js");

const { url, user, token } = JSON.parse(process.argv[2]);

function mounted() {
  document.body.innerHTML = "<main></main>";
  const root = createRoot(document.querySelector("main"));
  root.render(createElement(Assistant, { threads: new Threads({ url, userId: user, token: () => token }) }));
  return root;
}

const shown = () => [...document.querySelectorAll("article")].map((each) => each.textContent.replace(/(Edit|Another answer)$/, "").replace(/ ●$/, ""));
const button = (label, nth = -1) => [...document.querySelectorAll("button")].filter((each) => each.textContent === label).at(nth);

async function until(so, what) {
  const end = Date.now() + 30_000;
  while (!so()) {
    if (Date.now() > end) throw new Error(`never ${what}: ${document.body.innerHTML}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function write(text, label = "Send") {
  await until(() => document.querySelector("textarea"), "a field");
  const input = [...document.querySelectorAll("textarea")].at(label === "Send" ? -1 : 0);
  Object.getOwnPropertyDescriptor(window.HTMLTextAreaElement.prototype, "value").set.call(input, text);
  input.dispatchEvent(new window.Event("input", { bubbles: true }));
  await until(() => button(label) && !button(label).disabled, `ready: ${label}`);
  button(label).click();
}

async function answered(count, ending) {
  await until(() => !button("Stop") && shown().length === count && shown().at(-1).endsWith(ending), `an answer ${ending}`);
  return shown();
}

const steps = {};
let root = mounted();
await write('call add_task {"title": "milk"}');
steps.sent = await answered(2, "add_task: done. ");
await until(() => button('call add_task {"title": "milk"}'), "a title");
await write("say Hello.");
steps.second = await answered(4, "Hello.");
button("Another answer").click();
await until(() => button("Stop") || shown().length < 4, "sent");
steps.anew = await answered(4, "Hello.");
button("Edit").click();
await write("say Goodbye.", "Send again");
steps.edited = await answered(4, "Goodbye.");
await write(`say Once\ngate ${user}`);
await until(() => shown().at(-1).endsWith("Once"), "the beginning");
root.unmount();
root = mounted();
await until(() => button('call add_task {"title": "milk"}'), "the list of threads");
button('call add_task {"title": "milk"}').click();
await until(() => shown().at(-1)?.endsWith("Once"), "what is being said");
button("Stop").click();
steps.stopped = await answered(6, "Once");
console.log(JSON.stringify(steps));
process.exit(0);
