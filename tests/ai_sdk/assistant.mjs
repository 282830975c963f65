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

/** Choose a file, as a browser's dialogue would have it. */
async function choose(bytes, name, type) {
  await until(() => button("Add a file"), "a button for files");
  button("Add a file").click();
  await until(() => document.querySelector("input[type=file]"), "a dialogue");
  const file = new File([Uint8Array.from(bytes, (letter) => letter.charCodeAt(0))], name, { type });
  document.querySelector("input[type=file]").onchange({ target: { files: [file] } });
}

/** The page in another tab, with the conversation opened. */
async function reloaded() {
  root.unmount();
  root = mounted();
  await until(() => button('call add_task {"title": "milk"}'), "the list of threads");
  button('call add_task {"title": "milk"}').click();
}

const asks = (task) => `ask delete_task {"task_id": ${task}}\nwait\nsay So it is.`;
await write(asks(1));
await until(() => button("Deny"), "asked");
button("Deny").click();
steps.denied = (await answered(8, "So it is.")).at(-1);
await write(asks(1));
await until(() => button("Approve"), "asked again");
button("Approve").click();
steps.approved = (await answered(10, "So it is.")).at(-1);
await write('call add_task {"title": "bread"}\n' + asks(2));
await until(() => button("Approve"), "asked once more");
await reloaded();
await until(() => shown().length === 12 && button("Approve"), "asked after a reload");
button("Approve").click();
steps.later = (await answered(12, "So it is.")).at(-1);

await choose("MZ\x90\x00", "d.exe", "application/x-msdownload");
await choose(atob("R0lGODlhAQABAAAAACwAAAAAAQABAAAC"), "dot.gif", "image/gif");
await until(() => document.querySelector("form img"), "the picture that is to be sent");
await write("files");
steps.files = (await answered(14, "]]")).slice(-1);
const pictures = async () => Promise.all([...document.querySelectorAll("article img")].map(async ({ alt, src }) => [alt, (await (await fetch(src)).blob()).size]));
await until(() => document.querySelector("article img"), "the picture");
steps.pictures = [await pictures()];
await reloaded();
await until(() => shown().length === 14 && document.querySelector("article img"), "the picture after a reload");
steps.pictures.push(await pictures());
button("Edit").click();
await write("say Seen.\nfiles", "Send again");
steps.seen = await answered(14, "]]");
console.log(JSON.stringify(steps));
process.exit(0);
