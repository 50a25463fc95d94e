// Vercel's ai with @ai-sdk/openai-compatible. It has no calls for lists of models.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, Output, streamText } from "ai";
import { z } from "zod";
import {
  assert, busy, chatModel, check, checkTimings, checkUsage, done, drain, endless, fill, key, limited, main, question,
  recording, refused, retriedOnce, running, unit, until,
} from "./check.mjs";

const make = (options) => createOpenAICompatible({
  name: "quern", baseURL: `${main}/v1`, apiKey: key, includeUsage: true, supportsStructuredOutputs: true, ...options });
const quern = make();
const tight = (options) => make({ baseURL: `${limited}/v1`, apiKey: "none", ...options });
const ask = { model: quern.chatModel(chatModel), prompt: question, temperature: 0, maxOutputTokens: 12, maxRetries: 0,
  include: { responseBody: true } };

async function raises(status, call) {
  try {
    await call();
  } catch (error) {
    assert(APICallError.isInstance(error), `${error?.name}: ${error?.message}`);
    assert.equal(error.statusCode, status);
    assert(error.responseHeaders["x-request-id"]);
    return { error, body: JSON.parse(error.responseBody).error };
  }
  assert.fail("no error");
}

let answer;
await check("chat", async () => {
  const r = await generateText(ask);
  assert(r.text && ["stop", "length"].includes(r.finishReason), r.finishReason);
  assert(r.usage.inputTokens > 0 && r.usage.outputTokens > 0);
  assert(r.response.headers["server-timing"]);
  answer = r.text;
});
await check("chat with a system message and turns", async () => {
  const r = await generateText({
    ...ask, prompt: undefined, system: "Be brief.", maxOutputTokens: 4,
    messages: [{ role: "user", content: [{ type: "text", text: "Hello" }] }, { role: "assistant", content: "Hi." },
      { role: "user", content: question }],
  });
  assert.equal(r.finishReason, "length");
  assert.equal(r.usage.outputTokens, 4);
});
await check("complete", async () => {
  const r = await generateText({ ...ask, model: quern.completionModel("grist"), prompt: "ROMEO:", maxOutputTokens: 8 });
  assert(r.text);
  assert.equal(r.usage.outputTokens, 8);
});
await check("stream", async () => {
  const r = streamText(ask);
  let text = "";
  for await (const piece of r.textStream) text += piece;
  assert.equal(text, answer);
  assert(["stop", "length"].includes(await r.finishReason));
});
await check("usage of a stream, with quern's record in it", async () => {
  const r = streamText(ask);
  await r.consumeStream();
  const usage = await r.usage;
  assert(usage.inputTokens > 0 && usage.totalTokens === usage.inputTokens + usage.outputTokens);
  checkUsage(usage.raw);
});
await check("n = 2", async () => {
  const r = await generateText({ ...ask, temperature: 1, seed: 7, providerOptions: { quern: { n: 2 } } });
  assert.equal(r.response.body.choices.length, 2);
  assert.equal(r.text, r.response.body.choices[0].message.content);
});
await check("logprobs and structures through providerOptions", async () => {
  const r = await generateText({
    ...ask, model: quern.completionModel("grist"), prompt: "ROMEO:",
    providerOptions: { quern: { logprobs: 2, attention: "mqa", ffn: "moe" } },
  });
  const { body } = r.response;
  assert.equal(body.structure.attention.type, "mqa");
  assert.equal(body.choices[0].logprobs.tokens.join(""), r.text);
  checkTimings(body.timings);
});
await check("embeddings", async () => {
  const values = ["ROMEO:", "JULIET:"];
  const r = await embedMany({ model: quern.embeddingModel("grist"), values, maxRetries: 0 });
  r.embeddings.forEach(unit);
  // This client always asks for floats; the other encoding over plain HTTP holds the same values.
  const reply = await fetch(`${main}/v1/embeddings`, {
    method: "POST", headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
    body: JSON.stringify({ model: "grist", input: values, encoding_format: "base64" }),
  });
  const { data } = await reply.json();
  data.forEach((d, i) => {
    const bytes = Buffer.from(d.embedding, "base64");
    const floats = Array.from({ length: bytes.length / 4 }, (_, k) => bytes.readFloatLE(4 * k));
    assert.deepEqual(Float32Array.from(floats), Float32Array.from(r.embeddings[i]));
  });
});
await check("abort in mid-stream frees the slot", async () => {
  const stop = new AbortController();
  const r = streamText({
    ...ask, model: quern.completionModel(chatModel), prompt: endless, maxOutputTokens: 4000, abortSignal: stop.signal,
    providerOptions: { quern: { ignore_eos: true } }, onError() {},
  });
  let pieces = 0;
  for await (const piece of r.textStream) {
    void piece;
    if (++pieces === 3) {
      assert.equal(await running(main), 1);
      stop.abort();
    }
  }
  await until("the slot is free", async () => (await running(main)) === 0);
  assert(pieces >= 3 && pieces < 4000);
});
await check("400 names the field", async () => {
  const { body } = await raises(400, () => generateText({ ...ask, temperature: -1 }));
  assert.equal(body.param, "temperature");
});
await check("400 when the context is exceeded", async () => {
  const { body } = await raises(400, () =>
    generateText({ ...ask, model: quern.completionModel("grist"), prompt: "a".repeat(2000) }));
  assert.equal(body.code, "context_length_exceeded");
});
await check("401", async () => {
  const stranger = make({ apiKey: "wrong-key-0000" });
  const { body } = await raises(401, () => generateText({ ...ask, model: stranger.chatModel(chatModel) }));
  assert.equal(body.code, "invalid_api_key");
});
await check("404", async () => {
  const { body } = await raises(404, () => generateText({ ...ask, model: quern.chatModel("org/none:q4") }));
  assert.equal(body.code, "model_not_found");
});
await check("413", async () => {
  const { body } = await raises(413, () => generateText({ ...ask, prompt: "a".repeat(100000) }));
  assert.equal(body.code, "body_too_large");
});
await check("structured output", async () => {
  const schema = z.object({ colour: z.enum(["red", "green", "blue"]), warm: z.boolean() });
  const r = await generateText({ ...ask, maxOutputTokens: 200, output: Output.object({ schema }) });
  schema.parse(r.output);
});
await check("429 is an APICallError, and a retry waits for Retry-After", async () => {
  const before = await refused(limited);
  const empty = await fill();
  const { error } = await raises(429, () => generateText({ ...ask, model: tight().chatModel(chatModel) }));
  assert(error.isRetryable && Number(error.responseHeaders["retry-after"]) >= 1);
  const fetch = recording();
  const later = generateText({ ...ask, model: tight({ fetch }).chatModel(chatModel), maxRetries: 2 });
  await until("the first try is refused", async () => (await refused(limited)) === before + 2);
  await empty();
  assert((await later).text);
  retriedOnce(fetch.seen);
  assert.equal(await refused(limited), before + 2);
});
await check("503 while draining, and an error in mid-stream", async () => {
  const long = {
    ...ask, model: tight().completionModel(chatModel), prompt: endless, maxOutputTokens: 4000,
    providerOptions: { quern: { ignore_eos: true } },
  };
  const errors = [];
  const broken = streamText({ ...long, onError: ({ error }) => errors.push(error) }).consumeStream();
  await busy();
  const whole = raises(503, () => generateText(long));
  await drain();
  const { error, body } = await whole;
  assert(error.isRetryable);
  assert.equal(body.code, "draining");
  await broken;
  assert.match(JSON.stringify(errors[0]) + errors[0]?.message, /stop|drain|shut/);
});
done();
