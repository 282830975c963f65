// OpenAI's own SDK and Vercel's provider at chat completions:  node openai.mjs '{"url": …, "token": …}'
// Prints what each of them made of the answers, a JSON object.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";

const { url, token } = JSON.parse(process.argv[2]);
const settings = { baseURL: `${url}/v1`, apiKey: token };
const steps = {};

const client = new OpenAI({ ...settings, maxRetries: 0 });
const ask = (content, options = {}) => ({ model: "commanded", messages: [{ role: "user", content }], ...options });
const weather = {
  type: "function",
  function: {
    name: "weather",
    parameters: { type: "object", properties: { city: { type: "string" } } },
    function: ({ city }) => `sunny in ${city}`,
    parse: JSON.parse,
  },
};
const question = 'say Let me see.\nask weather {"city": "Bern"}\nwait\nsay Done.';

steps.created = (await client.chat.completions.create(ask("say Yes."))).choices[0].message.content;
const stream = client.chat.completions.stream(ask("say One \nsay two.", { stream_options: { include_usage: true } }));
steps.streamed = (await stream.finalChatCompletion()).choices[0].message.content;
steps.tools = await client.chat.completions.runTools(ask(question, { tools: [weather] })).finalContent();
steps.toolsStreamed = await client.chat.completions.runTools(ask(question, { tools: [weather], stream: true })).finalContent();
const format = { type: "json_schema", json_schema: { name: "number", strict: true, schema: { type: "object", properties: { n: { type: "integer" } } } } };
steps.parsed = JSON.parse((await client.chat.completions.create(ask('say {"n": 7}', { response_format: format }))).choices[0].message.content);
steps.refused = await client.chat.completions.create(ask("x", { n: 2 })).catch((error) => [error.constructor.name, error.code, error.param]);
steps.failed = await client.chat.completions.stream(ask("say One\nfail")).finalContent().catch((error) => [error.constructor.name, error.code]);

const model = createOpenAI(settings).chat("commanded");
const tools = {
  weather: tool({
    inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }),
    execute: ({ city }) => `sunny in ${city}`,
  }),
};
steps.vercel = (await generateText({ model, system: "Be brief.", prompt: question, tools, stopWhen: stepCountIs(3) })).text;
steps.vercelStreamed = await streamText({ model, prompt: question, tools, stopWhen: stepCountIs(3) }).text;
const output = Output.object({ schema: jsonSchema({ type: "object", properties: { n: { type: "integer" } } }) });
steps.vercelParsed = (await generateText({ model, prompt: 'say {"n": 7}', output })).output;
console.log(JSON.stringify(steps));
