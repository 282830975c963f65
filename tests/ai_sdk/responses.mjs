// OpenAI's own SDK and Vercel's provider at responses:  node responses.mjs '{"url": …, "token": …}'
// Prints what each of them made of the answers, a JSON object.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";

const { url, token } = JSON.parse(process.argv[2]);
const settings = { baseURL: `${url}/v1`, apiKey: token };
const steps = {};

const client = new OpenAI({ ...settings, maxRetries: 0 });
const ask = (input, options = {}) => ({ model: "commanded", input, ...options });
const weather = { type: "function", name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } };
const question = 'think Hm.\nsay Let me see. \nask weather {"city": "Bern"}\nwait\nsay Done.';

const created = await client.responses.create(ask("say Yes."));
steps.created = created.output_text;
const stream = client.responses.stream(ask('think Hm.\nwords 3\ncall add_task {"title": "milk"}'));
const streamed = await stream.finalResponse();
steps.streamed = [streamed.output_text, streamed.output.map((item) => item.type)];
const replayed = await client.responses.stream({ response_id: streamed.id, starting_after: 3 }).finalResponse();
steps.replayed = replayed.output_text === streamed.output_text;
const rest = [];
for await (const event of await client.responses.retrieve(streamed.id, { stream: true, starting_after: 3 })) rest.push(event.sequence_number);
steps.rest = [rest[0], rest.length === rest.at(-1) - 3];
const waiting = await client.responses.stream(ask(question, { tools: [weather] })).finalResponse();
const { call_id } = waiting.output.at(-1);
const output = [{ type: "function_call_output", call_id, output: "sunny" }];
steps.tools = (await client.responses.stream(ask(output, { previous_response_id: waiting.id })).finalResponse()).output_text;
let background = await client.responses.create(ask("say Later.", { background: true }));
while (["queued", "in_progress"].includes(background.status)) {
  await new Promise((done) => setTimeout(done, 50));
  background = await client.responses.retrieve(background.id);
}
steps.background = background.output_text;
steps.refused = await client.responses.create(ask("x", { top_logprobs: 2 })).catch((error) => [error.constructor.name, error.code, error.param]);
steps.failed = await client.responses.stream(ask("say One\nfail")).finalResponse().catch((error) => [error.constructor.name, error.code]);
const conversation = await client.conversations.create({ metadata: { a: "b" } });
await client.responses.create(ask("say one", { conversation: conversation.id }));
steps.items = [];
for await (const item of client.conversations.items.list(conversation.id, { limit: 1 })) steps.items.push(item.role);
steps.deleted = (await client.conversations.delete(conversation.id)).deleted;

const model = createOpenAI(settings).responses("commanded");
const tools = {
  weather: tool({
    inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }),
    execute: ({ city }) => `sunny in ${city}`,
  }),
};
const first = await generateText({ model, system: "Be brief.", prompt: question, tools, stopWhen: stepCountIs(3) });
steps.vercel = first.text;
// What came before goes back as references to items.
const messages = [{ role: "user", content: question }, ...first.response.messages, { role: "user", content: "history" }];
const again = await generateText({ model, messages, tools });
steps.vercelHistory = JSON.parse(again.text).map(([role]) => role);
const live = streamText({ model, prompt: `call add_task {"title": "milk"}\n${question}`, tools, stopWhen: stepCountIs(3) });
const parts = {};
for await (const part of live.fullStream) parts[part.type] = (parts[part.type] ?? 0) + 1;
steps.vercelStreamed = [(await live.text), parts["tool-call"], parts["tool-result"], parts.error ?? 0, parts["reasoning-start"]];
const options = { openai: { previousResponseId: created.id, store: true } };
steps.vercelGoesOn = (await generateText({ model, prompt: "history", providerOptions: options })).text;
const unstored = { openai: { store: false } };
steps.vercelUnstored = (await generateText({ model, prompt: question, tools, stopWhen: stepCountIs(3), providerOptions: unstored })).text;
const parsed = Output.object({ schema: jsonSchema({ type: "object", properties: { n: { type: "integer" } } }) });
steps.vercelParsed = (await generateText({ model, prompt: 'say {"n": 7}', output: parsed })).output;
console.log(JSON.stringify(steps));
