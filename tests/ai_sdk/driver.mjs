// The AI SDK's own classes with the transport of packages/ai-sdk, told what to do by a line of JSON each on standard
// input: {"call": NAME, "chat": ID, …}; each is answered with a line of JSON.
import { createInterface } from "node:readline";

import { Chat } from "@ai-sdk/react";
import { answersAreReady, ChatapiTransport } from "@chatapi/ai-sdk";
import { parseJsonEventStream, readUIMessageStream, uiMessageChunkSchema } from "ai";

const chats = {};
/** The answers that were posted, by the user's part of the address. */
const posted = {};
/** The turns that were to be cancelled, in the same way. */
const cancelled = {};
const { fetch } = globalThis;
globalThis.fetch = (address, options) => {
  const [user, , turn, action] = String(address).split("/").slice(4);
  if (action === "answers") (posted[user] ??= []).push(JSON.parse(options.body));
  if (action === "cancel") (cancelled[user] ??= []).push(Number(turn));
  return fetch(address, options);
};

class Conversation {
  constructor({ url, user, token, conversation_id: conversationId, silence, client_tools: clientTools }) {
    this.errors = [];
    this.user = encodeURIComponent(user);
    this.watchers = new Set();
    const options = { url, userId: user, token: async () => token, conversationId, silence, clientTools };
    this.transport = new ChatapiTransport(options);
    this.chat = new Chat({
      transport: this.transport,
      sendAutomaticallyWhen: answersAreReady,
      onError: (error) => this.errors.push({ message: error.message, problem: error.problem ?? null }),
    });
    this.chat["~registerMessagesCallback"](() => this.watchers.forEach((look) => look()));
    this.chat["~registerStatusCallback"](() => this.watchers.forEach((look) => look()));
  }

  state() {
    const { messages, status } = this.chat;
    const { conversationId = null, turnId = null, queued: waiting } = this.transport;
    const answers = posted[this.user] ?? [];
    const cancels = cancelled[this.user] ?? [];
    return { messages, status, errors: this.errors, conversation_id: conversationId, turn_id: turnId, answers, cancels, waiting };
  }

  /** Answers are sent by the SDK itself, which does not let anybody wait for that. */
  async idle() {
    do await new Promise(setImmediate);
    while (["submitted", "streaming"].includes(this.chat.status));
  }

  /** When the answer says that much. */
  shows(text) {
    return this.when(() => {
      const { role, parts } = this.chat.lastMessage ?? {};
      return role === "assistant" && JSON.stringify(parts).includes(text);
    });
  }

  when(isSo) {
    const { promise, resolve } = Promise.withResolvers();
    const look = () => isSo() && resolve();
    this.watchers.add(look);
    look();
    return promise.finally(() => this.watchers.delete(look));
  }
}

const calls = {
  open({ chat, ...options }) {
    chats[chat] = new Conversation(options);
  },
  async history({ chat }) {
    chats[chat].chat.messages = await chats[chat].transport.history();
  },
  async news({ chat }) {
    return { news: (await chats[chat].transport.news()) ?? null };
  },
  /** Show these messages, as a component may do that keeps branches of its own. */
  show({ chat, messages }) {
    chats[chat].chat.messages = messages;
  },
  /** Stop and send, without waiting for anything between. */
  stopAndSend({ chat, ...message }) {
    const { chat: stopped } = chats[chat];
    stopped.stop();
    chats[chat].doing = stopped.sendMessage(message);
  },
  /** Send a message in the place of the answer that is shown. */
  interrupt({ chat, ...message }) {
    const { chat: stopped } = chats[chat];
    stopped.stop();
    chats[chat].doing = stopped.sendMessage(message, { metadata: { whenBusy: "interrupt" } });
  },
  // These go on by themselves until `settled` is asked for.
  send({ chat, metadata, ...message }) {
    chats[chat].doing = chats[chat].chat.sendMessage(message, { metadata });
  },
  regenerate({ chat, ...options }) {
    chats[chat].doing = chats[chat].chat.regenerate(options);
  },
  resume({ chat }) {
    chats[chat].doing = chats[chat].chat.resumeStream();
  },
  /** Read the next of the queued messages, as a page does that is free. */
  next({ chat: id }) {
    const { chat, transport } = chats[id];
    chat.messages = [...chat.messages, transport.readNext()];
    chats[id].doing = chat.resumeStream();
  },
  approve({ chat, ...answer }) {
    chats[chat].doing = chats[chat].chat.addToolApprovalResponse(answer);
  },
  output({ chat, ...output }) {
    chats[chat].doing = chats[chat].chat.addToolOutput(output);
  },
  /** When what was sent unasked is over, and whatever it would send again. */
  async quiet({ chat }) {
    await chats[chat].doing;
    for (let round = 0; round < 3; round++) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      await chats[chat].when(() => ["ready", "error"].includes(chats[chat].chat.status));
    }
  },
  async settled({ chat }) {
    await chats[chat].doing;
    await chats[chat].idle();
  },
  async queue({ chat, text }) {
    const message = { id: "queued", role: "user", parts: [{ type: "text", text }] };
    return { queued: await chats[chat].transport.queue(message) };
  },
  async lookAtQueue({ chat }) {
    await chats[chat].transport.lookAtQueue();
  },
  unqueue: ({ chat, turn }) => chats[chat].transport.unqueue(turn),
  shows: ({ chat, text }) => chats[chat].shows(text),
  stop: ({ chat }) => chats[chat].chat.stop(),
  cancel: ({ chat }) => chats[chat].transport.cancel(),
  lost: ({ chat }) => ({ lost: chats[chat].transport.lost(chats[chat].chat.error) }),
  refused: ({ chat }) => ({ refused: chats[chat].transport.refused(chats[chat].chat.error) }),
  /** Go on by another process. */
  move({ chat, url, user }) {
    chats[chat].transport.base = `${url}/api/${user}`;
  },
  /** What the SDK's parser makes of a stream's bytes: its chunks, the message, and an error if there is one. */
  async parse({ text }) {
    const stream = new Blob([text]).stream();
    const parsed = parseJsonEventStream({ stream, schema: uiMessageChunkSchema });
    const chunks = [];
    const good = parsed.pipeThrough(
      new TransformStream({
        transform(result, controller) {
          if (!result.success) throw result.error;
          chunks.push(result.value);
          controller.enqueue(result.value);
        },
      }),
    );
    let message = null;
    const errors = [];
    const onError = (error) => errors.push(error.message);
    for await (const each of readUIMessageStream({ stream: good, onError })) message = each;
    return { chunks, message, errors };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { call, ...options } = JSON.parse(line);
  let answer;
  try {
    answer = { ...(await calls[call](options)), ...chats[options.chat]?.state() };
  } catch (error) {
    answer = { failure: error.stack };
  }
  console.log(JSON.stringify(answer));
}
