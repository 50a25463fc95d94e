// LangChain (@langchain/openai). It has no calls for lists of models.
import { AIMessage, HumanMessage, SystemMessage } from "@langchain/core/messages";
import { ChatOpenAI, OpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { z } from "zod";
import {
  assert, busy, chatModel, check, checkUsage, done, drain, endless, fill, key, limited, main, question, recording,
  refused, retriedOnce, running, unit, until,
} from "./check.mjs";

const at = (url, fetch) => ({ baseURL: `${url}/v1`, ...(fetch && { fetch }) });
const base = { apiKey: key, configuration: at(main), maxRetries: 0, temperature: 0 };
const chat = (options) => new ChatOpenAI({ ...base, model: chatModel, maxTokens: 12, ...options });
const tight = (options, fetch) => chat({ apiKey: "none", configuration: at(limited, fetch), ...options });
const complete = (options) => new OpenAI({ ...base, model: "grist", maxTokens: 8, ...options });

async function raises(status, call) {
  try {
    await call();
  } catch (error) {
    assert.equal(error.status ?? error.cause?.status, status, `${error?.name}: ${error?.message}`);
    return error;
  }
  assert.fail("no error");
}

let answer;
await check("chat", async () => {
  const r = await chat().invoke(question);
  assert(r.content && ["stop", "length"].includes(r.response_metadata.finish_reason));
  assert(r.usage_metadata.input_tokens > 0 && r.usage_metadata.output_tokens > 0);
  answer = r.content;
});
await check("chat with a system message and turns", async () => {
  const r = await chat({ maxTokens: 4 }).invoke([new SystemMessage("Be brief."), new HumanMessage("Hello"),
    new AIMessage("Hi."), new HumanMessage({ content: [{ type: "text", text: question }] })]);
  assert.equal(r.response_metadata.finish_reason, "length");
  assert.equal(r.usage_metadata.output_tokens, 4);
});
await check("complete", async () => assert((await complete().invoke("ROMEO:")).length > 0));
await check("complete with a structure in the model's name", async () => {
  const plain = await complete({ maxTokens: 24 }).invoke("ROMEO:");
  const other = await complete({ maxTokens: 24, model: "grist@mqa+moe" }).invoke("ROMEO:");
  assert.notEqual(plain, other);
});
await check("stream, with usage and quern's record in it", async () => {
  let all;
  for await (const chunk of await chat({ streamUsage: true }).stream(question)) all = all ? all.concat(chunk) : chunk;
  assert.equal(all.content, answer);
  assert(all.usage_metadata.output_tokens > 0);
  checkUsage(all.response_metadata.usage);
});
await check("stream without usage", async () => {
  let all;
  for await (const chunk of await chat({ streamUsage: false }).stream(question)) all = all ? all.concat(chunk) : chunk;
  assert.equal(all.content, answer);
});
await check("stream a completion", async () => {
  let text = "";
  for await (const piece of await complete().stream("ROMEO:")) text += piece;
  assert.equal(text, await complete().invoke("ROMEO:"));
});
await check("n = 2", async () => {
  const r = await chat({ n: 2, temperature: 1, modelKwargs: { seed: 7 } }).generate([[new HumanMessage(question)]]);
  assert.equal(r.generations[0].length, 2);
  assert.notEqual(r.generations[0][0].text, r.generations[0][1].text);
});
await check("logprobs", async () => {
  const r = await chat({ logprobs: true, topLogprobs: 2 }).invoke(question);
  const { content } = r.response_metadata.logprobs;
  assert.equal(content.map((t) => t.token).join("").trim(), r.content.trim());
  assert(content.every((t) => t.logprob <= 0 && t.top_logprobs.length === 2));
});
await check("timings in the raw usage", async () => {
  const r = await chat().invoke(question);
  checkUsage(r.response_metadata.usage);
});
await check("embeddings in both encodings", async () => {
  const texts = ["ROMEO:", "JULIET:"];
  const make = (encodingFormat) => new OpenAIEmbeddings({ ...base, model: "grist", encodingFormat });
  const coded = await make("base64").embedDocuments(texts);
  const plain = await make("float").embedDocuments(texts);
  const asked = await make(undefined).embedDocuments(texts);
  plain.forEach((v) => unit([...v]));
  texts.forEach((_, i) => {
    const bytes = Buffer.from(coded[i], "base64"); // asked for by name, it comes as it is
    const floats = Array.from({ length: bytes.length / 4 }, (_, k) => bytes.readFloatLE(4 * k));
    assert.deepEqual(Float32Array.from(floats), Float32Array.from(plain[i]));
    assert.deepEqual(Float32Array.from(asked[i]), Float32Array.from(plain[i]));
  });
});
await check("abort in mid-stream frees the slot", async () => {
  const llm = complete({ model: chatModel, maxTokens: 4000, modelKwargs: { ignore_eos: true } });
  let pieces = 0;
  for await (const piece of await llm.stream(endless)) {
    void piece;
    if (++pieces === 3) {
      assert.equal(await running(main), 1);
      break;
    }
  }
  assert.equal(pieces, 3);
  await until("the slot is free", async () => (await running(main)) === 0);
});
await check("400 names the field", async () => {
  const e = await raises(400, () => chat({ temperature: -1 }).invoke(question));
  assert.equal(e.param, "temperature");
});
await check("400 when the context is exceeded is a ContextOverflowError", async () => {
  for (const call of [() => complete().invoke("a".repeat(2000)), () => chat().invoke("1 ".repeat(10000))]) {
    const e = await call().then(() => assert.fail("no error"), (why) => why);
    assert.equal(e.name, "ContextOverflowError");
  }
});
await check("401", async () => {
  const e = await raises(401, () => chat({ apiKey: "wrong-key-0000" }).invoke(question));
  assert.equal(e.code, "invalid_api_key");
});
await check("404", async () => {
  const e = await raises(404, () => chat({ model: "org/none:q4" }).invoke(question));
  assert.equal(e.code, "model_not_found");
});
await check("413", async () => {
  const e = await raises(413, () => complete().invoke("a".repeat(100000)));
  assert.equal(e.code, "body_too_large");
});
await check("structured output", async () => {
  const schema = z.object({ colour: z.enum(["red", "green", "blue"]), warm: z.boolean() });
  const llm = chat({ maxTokens: 200 }).withStructuredOutput(schema, { method: "jsonSchema", strict: true });
  schema.parse(await llm.invoke(question));
});
await check("429, and a retry", async () => {
  const before = await refused(limited);
  const empty = await fill();
  const e = await raises(429, () => tight().invoke(question));
  assert.equal(e.lc_error_code, "MODEL_RATE_LIMIT");
  const fetch = recording();
  const later = tight({ maxRetries: 3 }, fetch).invoke(question);
  await until("the first try is refused", async () => (await refused(limited)) === before + 2);
  await empty();
  assert((await later).content);
  retriedOnce(fetch.seen, false); // this client waits by its own rule, 1 s at least
  assert.equal(await refused(limited), before + 2);
});
await check("503 while draining, and an error in mid-stream", async () => {
  const long = complete({
    apiKey: "none", configuration: at(limited), model: chatModel, maxTokens: 4000, modelKwargs: { ignore_eos: true } });
  const broken = assert.rejects(async () => {
    for await (const piece of await long.stream(endless)) void piece;
  }, (e) => e.code === "draining");
  await busy();
  const whole = raises(503, () => long.invoke(endless));
  await drain();
  assert.equal((await whole).code, "draining");
  await broken;
});
done();
