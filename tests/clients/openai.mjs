// The official openai package for Node. Usage: node openai.mjs openai|openai-6
import { z } from "zod";
import {
  assert, busy, chatModel, check, checkTimings, checkUsage, done, drain, endless, fill, key, limited, main, question,
  recording, refused, retriedOnce, running, unit, until,
} from "./check.mjs";

const name = process.argv[2] ?? "openai";
const { default: OpenAI } = await import(name);
const { zodResponseFormat } = await import(`${name}/helpers/zod`);
const client = new OpenAI({ baseURL: `${main}/v1`, apiKey: key, maxRetries: 0 });
const tight = (options) => new OpenAI({ baseURL: `${limited}/v1`, apiKey: "none", maxRetries: 0, ...options });
const ask = { model: chatModel, messages: [{ role: "user", content: question }], temperature: 0, max_tokens: 12 };

// What `call` rejects with: an instance of `type` with this status.
async function raises(type, status, call) {
  let error;
  await assert.rejects(async () => {
    try {
      await call();
    } catch (why) {
      error = why;
      throw why;
    }
  });
  assert(error instanceof type, `${error?.constructor?.name}: ${error?.message}`);
  assert.equal(error.status, status);
  assert(error.requestID, "x-request-id of the error");
  return error;
}

await check("list models", async () => {
  const ids = [];
  for await (const m of client.models.list()) {
    assert.equal(m.object, "model");
    assert(Number.isInteger(m.created) && m.owned_by);
    ids.push(m.id);
  }
  assert(ids.includes(chatModel) && ids.includes("grist"), ids.join());
});
await check("retrieve a model", async () => assert.equal((await client.models.retrieve("grist")).id, "grist"));
await check("complete", async () => {
  const r = await client.completions.create({ model: "grist", prompt: "ROMEO:", max_tokens: 8, temperature: 0 });
  assert(r.id.startsWith("cmpl-") && r.object === "text_completion" && r.choices.length === 1);
  assert(r.choices[0].text && r.choices[0].finish_reason === "length" && r.choices[0].logprobs === null);
  assert.equal(r.usage.completion_tokens, 8);
  assert(r._request_id);
});
await check("complete a batch of token ids, echoed with log-probabilities", async () => {
  const r = await client.completions.create({
    model: "grist@mqa+moe", prompt: [[82, 79, 77], [69, 79]], max_tokens: 1, temperature: 0, logprobs: 1, echo: true,
  });
  assert.deepEqual(r.choices.map((c) => c.index), [0, 1]);
  const l = r.choices[0].logprobs;
  assert(l.tokens.length === l.token_logprobs.length && l.tokens.length === l.text_offset.length);
  assert(l.token_logprobs.slice(1).every((p) => p < 0));
  assert(r.choices[0].text.startsWith("ROM"));
  assert.equal(r.structure.attention.type, "mqa");
  assert.equal(r.structure.ffn.type, "moe");
});
let answer;
await check("chat", async () => {
  const { data, response, request_id } = await client.chat.completions.create(ask).withResponse();
  const [choice] = data.choices;
  assert(data.id.startsWith("chatcmpl-") && data.object === "chat.completion");
  assert(choice.message.role === "assistant" && choice.message.content && choice.message.refusal === null);
  assert(["stop", "length"].includes(choice.finish_reason));
  assert(response.headers.get("server-timing") && request_id);
  answer = choice.message.content;
});
await check("chat with roles and content parts", async () => {
  const r = await client.chat.completions.create({
    ...ask, user: "somebody", metadata: { a: "b" }, store: false, max_tokens: undefined, max_completion_tokens: 4,
    messages: [
      { role: "system", content: "Be brief." }, { role: "user", content: [{ type: "text", text: "Hello" }] },
      { role: "assistant", content: "Hi." }, { role: "user", content: question },
    ],
  });
  assert.equal(r.usage.completion_tokens, 4);
  assert.equal(r.choices[0].finish_reason, "length");
});
await check("stream", async () => {
  const stream = await client.chat.completions.create({ ...ask, stream: true });
  let text = "", reason, ids = new Set();
  for await (const chunk of stream) {
    assert(chunk.object === "chat.completion.chunk" && chunk.choices.length === 1 && !chunk.usage);
    ids.add(`${chunk.id} ${chunk.created}`);
    text += chunk.choices[0].delta.content ?? "";
    reason = chunk.choices[0].finish_reason ?? reason;
  }
  assert.equal(text, answer);
  assert(reason && ids.size === 1);
});
await check("stream with the package's own helper", async () => {
  const r = await client.chat.completions.stream(ask).finalChatCompletion();
  assert.equal(r.choices[0].message.content, answer);
});
await check("stream a completion", async () => {
  const what = { model: "grist", prompt: "ROMEO:", max_tokens: 8, temperature: 0 };
  const whole = await client.completions.create(what);
  let text = "";
  for await (const chunk of await client.completions.create({ ...what, stream: true })) {
    assert.equal(chunk.object, "text_completion");
    text += chunk.choices[0].text;
  }
  assert.equal(text, whole.choices[0].text);
});
await check("usage chunk only when asked for", async () => {
  const options = { stream: true, stream_options: { include_usage: true } };
  const stream = await client.chat.completions.create({ ...ask, ...options });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  checkUsage(last.usage);
  assert(chunks.every((c) => c.usage == null && c.choices.length === 1));
});
await check("n = 2", async () => {
  const r = await client.chat.completions.create({ ...ask, n: 2, temperature: 1, seed: 7 });
  assert.deepEqual(r.choices.map((c) => c.index), [0, 1]);
  assert(r.choices[0].message.content !== r.choices[1].message.content, "two samples differ");
  const same = await client.chat.completions.create({ ...ask, n: 2, temperature: 1, seed: 7 });
  assert.deepEqual(same.choices.map((c) => c.message.content), r.choices.map((c) => c.message.content));
});
await check("logprobs", async () => {
  const r = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 3 });
  const { content } = r.choices[0].logprobs;
  assert.equal(content.length, r.usage.completion_tokens - (r.choices[0].finish_reason === "stop" ? 1 : 0));
  for (const t of content) {
    assert(t.logprob <= 0 && t.top_logprobs.length === 3 && t.top_logprobs[0].logprob === t.logprob);
    assert.deepEqual(Buffer.from(t.bytes).toString("utf8"), t.token);
  }
  const c = await client.completions.create({
    model: "grist", prompt: "ROMEO:", max_tokens: 4, temperature: 0, logprobs: 2 });
  const l = c.choices[0].logprobs;
  assert.equal(l.tokens.join(""), c.choices[0].text);
  assert(l.top_logprobs.every((t) => Object.keys(t).length === 2));
});
await check("embeddings in both encodings", async () => {
  const input = ["ROMEO:", "JULIET:"];
  const coded = await client.embeddings.create({ model: "grist", input }); // the package asks for base64
  const plain = await client.embeddings.create({ model: "grist", input, encoding_format: "float" });
  assert.deepEqual(coded.data.map((d) => d.index), [0, 1]);
  for (const i of [0, 1]) {
    unit([...plain.data[i].embedding]);
    assert.deepEqual(Float32Array.from(coded.data[i].embedding), Float32Array.from(plain.data[i].embedding));
  }
  assert(coded.usage.prompt_tokens > 0);
  const raw = await client.post("/embeddings", { body: { model: "grist", input, encoding_format: "base64" } });
  assert.equal(typeof raw.data[0].embedding, "string");
  const ids = await client.embeddings.create({ model: "grist", input: [[82, 79], [77]], encoding_format: "float" });
  assert.equal(ids.data.length, 2);
});
await check("abort in mid-stream frees the slot", async () => {
  const stream = await client.completions.create({
    model: chatModel, prompt: endless, max_tokens: 4000, stream: true, ignore_eos: true,
  });
  let chunks = 0;
  for await (const chunk of stream) {
    void chunk;
    if (++chunks === 3) {
      assert.equal(await running(main), 1);
      break;
    }
  }
  assert.equal(chunks, 3);
  await until("the slot is free", async () => (await running(main)) === 0);
});
await check("400 names the field", async () => {
  const e = await raises(OpenAI.BadRequestError, 400, () =>
    client.chat.completions.create({ ...ask, temperature: -1 }));
  assert.equal(e.param, "temperature");
  assert.equal(e.type, "invalid_request_error");
  const b = await raises(OpenAI.BadRequestError, 400, () =>
    client.completions.create({ model: "grist", prompt: "a", best_of: 3 }));
  assert.equal(b.param, "best_of");
});
await check("400 when the context is exceeded", async () => {
  const e = await raises(OpenAI.BadRequestError, 400, () =>
    client.completions.create({ model: "grist", prompt: "a".repeat(2000), max_tokens: 1 }));
  assert.equal(e.code, "context_length_exceeded");
  assert.equal(e.param, "prompt");
  const c = await raises(OpenAI.BadRequestError, 400, () =>
    client.chat.completions.create({ ...ask, messages: [{ role: "user", content: "1 ".repeat(10000) }] }));
  assert.equal(c.param, "messages");
});
await check("401", async () => {
  const e = await raises(OpenAI.AuthenticationError, 401, () =>
    new OpenAI({ baseURL: `${main}/v1`, apiKey: "wrong-key-0000", maxRetries: 0 }).chat.completions.create(ask));
  assert.equal(e.code, "invalid_api_key");
});
await check("404", async () => {
  const e = await raises(OpenAI.NotFoundError, 404, () =>
    client.chat.completions.create({ ...ask, model: "org/none:q4" }));
  assert.equal(e.code, "model_not_found");
  await raises(OpenAI.NotFoundError, 404, () => client.models.retrieve("org/none:q4"));
  await raises(OpenAI.NotFoundError, 404, () => client.get("/nowhere"));
});
await check("413", async () => {
  const e = await raises(OpenAI.APIError, 413, () =>
    client.completions.create({ model: "grist", prompt: "a".repeat(100000) }));
  assert.equal(e.code, "body_too_large");
});
await check("timings at top level and in usage", async () => {
  const r = await client.chat.completions.create(ask);
  checkTimings(r.timings);
  checkUsage(r.usage);
  assert(r.memory.state_bytes > 0 && r.structure.origin);
});
await check("structured output", async () => {
  const Answer = z.object({ colour: z.enum(["red", "green", "blue"]), warm: z.boolean() });
  const r = await client.chat.completions.parse({
    ...ask, max_tokens: 200, response_format: zodResponseFormat(Answer, "answer"),
  });
  if (r.choices[0].finish_reason === "stop") Answer.parse(r.choices[0].message.parsed);
  else assert.fail(`finish_reason ${r.choices[0].finish_reason}`);
});
await check("429 is a RateLimitError, and a retry waits for Retry-After", async () => {
  const before = await refused(limited);
  const empty = await fill();
  const e = await raises(OpenAI.RateLimitError, 429, () => tight().chat.completions.create(ask));
  assert(e.code && Number(e.headers.get("retry-after")) >= 1);
  const fetch = recording();
  const later = tight({ maxRetries: 2, fetch }).chat.completions.create(ask);
  await until("the first try is refused", async () => (await refused(limited)) === before + 2);
  await empty();
  assert((await later).choices[0].message.content);
  retriedOnce(fetch.seen);
  assert.equal(await refused(limited), before + 2);
});
await check("503 while draining is an InternalServerError, and an APIError in mid-stream", async () => {
  const long = { model: chatModel, prompt: endless, max_tokens: 4000, ignore_eos: true };
  const stream = await tight().completions.create({ ...long, stream: true });
  await busy();
  const whole = raises(OpenAI.InternalServerError, 503, () => tight().completions.create(long));
  const broken = assert.rejects(async () => {
    for await (const chunk of stream) void chunk;
  }, (e) => e instanceof OpenAI.APIError && e.code === "draining");
  await drain();
  const e = await whole;
  assert.equal(e.code, "draining");
  assert(Number(e.headers.get("retry-after")) >= 1);
  await broken;
});
done();
