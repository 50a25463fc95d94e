// What the scripts of all Node clients share: counting checks, reading /metrics, filling a server's queue.
// The servers are started by clients.py, which says where they are in the environment.
import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";

globalThis.crypto ??= webcrypto; // Debian's Node 18 doesn't have it there, and LangChain wants it

export const key = process.env.QUERN_KEY;
export const main = process.env.QUERN_MAIN; // SmolLM2 and grist, with a key and a body limit of 64 KiB
export const limited = process.env.QUERN_LIMITED; // SmolLM2, one sequence at a time, a queue of one
export const limitedPid = Number(process.env.QUERN_LIMITED_PID);
export const chatModel = process.env.QUERN_CHAT_MODEL;
export const question = "Name three colours.";
export const endless = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"; // continued with ignore_eos

let passed = 0;
let failed = 0;

export async function check(name, run) {
  try {
    await run();
    passed++;
    console.log(`ok     ${name}`);
  } catch (why) {
    failed++;
    console.log(`FAILED ${name}: ${why?.stack ?? why}`);
  }
}

export function done() {
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed || !passed ? 1 : 0);
}

// The sum of a metric's rows whose line holds `label`.
export async function metric(url, name, label = "") {
  const text = await (await fetch(`${url}/metrics`)).text();
  let sum = 0;
  for (const line of text.split("\n"))
    if (line.startsWith(name) && /[ {]/.test(line[name.length] ?? "") && line.includes(label))
      sum += Number(line.slice(line.lastIndexOf(" ") + 1));
  return sum;
}

export const running = (url) => metric(url, "quern_running");
const waiting = () => metric(limited, "quern_queue_depth");
export const refused = (url) => metric(url, "quern_refused_total", "queue_full");

export async function until(what, test) {
  const end = Date.now() + 60000;
  while (!(await test())) {
    assert(Date.now() < end, `${what}: never`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// fetch that keeps {status, retryAfter, at} of every answer.
export function recording() {
  const seen = [];
  const recorder = async (url, options) => {
    const reply = await fetch(url, options);
    seen.push({ status: reply.status, retryAfter: Number(reply.headers.get("retry-after")), at: Date.now() });
    return reply;
  };
  recorder.seen = seen;
  return recorder;
}

// One request runs on the limited server and one waits, so that the next is refused. Returns what ends both.
export async function fill() {
  const stop = new AbortController();
  const before = [];
  const one = async () => {
    const reply = await fetch(`${limited}/v1/completions`, {
      method: "POST",
      signal: stop.signal,
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: chatModel, prompt: endless, max_tokens: 4000, stream: true, ignore_eos: true }),
    });
    assert.equal(reply.status, 200);
    for await (const chunk of reply.body) void chunk;
  };
  before.push(one().catch(() => {}));
  await busy();
  before.push(one().catch(() => {}));
  await until("a waiting request", async () => (await waiting()) === 1);
  return async () => {
    stop.abort();
    await Promise.all(before);
    await until("an empty server", async () => (await running(limited)) === 0 && (await waiting()) === 0);
  };
}

// The first try was refused, the second came no earlier than Retry-After said, and there was no third.
export function retriedOnce(seen, honours = true) {
  assert.deepEqual(seen.map((s) => s.status), [429, 200]);
  assert(Number.isInteger(seen[0].retryAfter) && seen[0].retryAfter >= 1, "Retry-After is a whole number of seconds");
  if (honours) assert(seen[1].at - seen[0].at >= 1000 * seen[0].retryAfter - 5, "the retry came too early");
}

// A request runs on the limited server. (The headers of a stream come while it still waits.)
export const busy = () => until("a running request", async () => (await running(limited)) === 1);

// Once another waits on the limited server: SIGTERM. Its drain time is short, so both end with an error.
export async function drain() {
  await until("a waiting request", async () => (await waiting()) === 1);
  process.kill(limitedPid, "SIGTERM");
}

export function checkTimings(t) {
  for (const name of ["queue_ms", "prefill_ms", "decode_ms", "total_ms"]) assert(t[name] >= 0, `timings.${name}`);
  assert(t.total_ms > 0);
}

// usage.quern, the copy for clients that drop what stands at top level.
export function checkUsage(usage) {
  assert(usage.prompt_tokens > 0 && usage.total_tokens === usage.prompt_tokens + usage.completion_tokens);
  checkTimings(usage.quern.timings);
  assert(usage.quern.memory.state_bytes > 0);
  assert.equal(typeof usage.quern.structure.attention.type, "string");
}

export function unit(v) {
  assert(v.length > 8 && v.every(Number.isFinite) && v.some((x) => x !== 0), "a vector of numbers");
}

export { assert };
