// The first view: texts stream side by side from /v1/infer, then /v1/compare measures the structures one by one.
import { curl, postJson, stream } from "./api.js";
import { draw, line, options, stateChart, structureColor, tooltipOf } from "./charts.js";
import { $, describe, el, fixed, num, say, whole } from "./dom.js";
import { analyticState, toRequest } from "./structures.js";

const PHASES = ["queue", "tokenize", "convert", "prefill", "decode", "finish"];

export function inferBody(form, structure) {
    const body = { model: form.model, sequence: form.sequence, ...toRequest(structure), max_tokens: form.maxTokens };
    if (form.temperature > 0) Object.assign(body, { temperature: form.temperature, seed: form.seed });
    if (form.convert) body.convert = true;
    return body;
}

export function compareBody(form) {
    const body = { model: form.model, sequence: form.sequence, structures: form.structures.map(toRequest), max_tokens: form.maxTokens, repeats: form.repeats };
    if (form.convert) body.convert = true;
    return body;
}

// ---- texts ----

function card(structure, i, form) {
    const rate = el("span", { class: "rate" }, "waiting");
    const prompt = el("span", { class: "prompt" }, form.sequence);
    const text = el("span", { class: "made" });
    const body = el("div", { class: "text", tabindex: "0", role: "group", "aria-label": `Text of structure ${i + 1}, ${structure.name}` }, prompt, text);
    const chip = el("span", { class: "chip" });
    const copy = el("button", { type: "button", class: "quiet small copy", "aria-label": `Copy as curl, structure ${i + 1}` }, "Copy as curl");
    copy.addEventListener("click", () => copy.dispatchEvent(new CustomEvent("copy-curl", { bubbles: true, detail: curl("v1/infer", { ...inferBody(form, structure), stream: true }) })));
    const article = el("article", { class: `panel card s${i}`, "aria-busy": "true" },
        el("h3", {}, el("span", { class: "swatch", "aria-hidden": "true" }, String(i + 1)), el("span", { class: "name" }, structure.name)),
        el("div", { class: "row label" }, chip, el("span", { class: "push" }), copy), body, el("p", { class: "foot" }, rate));
    return { article, rate, text, body, chip };
}

// One structure's stream into its card; drawn at most once a frame.
async function follow(c, structure, i, form, signal) {
    let pending = "", tokens = 0, first = 0, last = 0, frame = 0, reply = null;
    const paint = () => {
        frame = 0;
        const atEnd = c.body.scrollTop + c.body.clientHeight >= c.body.scrollHeight - 4;
        c.text.append(pending);
        pending = "";
        if (atEnd) c.body.scrollTop = c.body.scrollHeight;
        const seconds = (last - first) / 1000;
        c.rate.textContent = `${whole(tokens)} tokens${tokens > 1 && seconds > 0 ? ` · ${num((tokens - 1) / seconds)} tokens/s` : ""}`;
    };
    try {
        await stream("v1/infer", inferBody(form, structure), signal, (event) => {
            if (event.object) {
                reply = event;
                return;
            }
            last = performance.now();
            first ||= last;
            tokens++;
            pending += event.text;
            frame ||= requestAnimationFrame(paint);
        });
        cancelAnimationFrame(frame);
        paint();
        const t = reply.timings, out = reply.outputs[0];
        c.chip.textContent = reply.structure.origin === "native" ? "native" : `converted, ${reply.structure.exactness}`;
        c.rate.textContent = `${whole(out.tokens.length)} tokens · ${num(t.decode_tokens_per_second)} tokens/s${out.finish_reason === "stop" ? " · stopped by itself" : ""}`;
        say(`Structure ${i + 1}, ${structure.name}: ${out.tokens.length} tokens`);
        return true;
    } catch (e) {
        cancelAnimationFrame(frame);
        paint();
        if (e.name === "AbortError") {
            c.rate.textContent = `stopped after ${tokens} tokens`;
        } else {
            c.rate.textContent = "failed";
            c.article.append(el("p", { class: "error", role: "alert" }, ...describe(e)));
        }
        return false;
    } finally {
        c.article.setAttribute("aria-busy", "false");
    }
}

// ---- measurements ----

function quartiles(values) {
    const v = [...values].sort((a, b) => a - b);
    const at = (p) => {
        const x = (v.length - 1) * p, k = Math.floor(x);
        return v[k] + (x - k) * ((v[k + 1] ?? v[k]) - v[k]);
    };
    return [at(0.25), at(0.75)];
}

function phaseChart(structures, results) {
    const sets = results.map((r, i) => ({
        label: structures[i].name,
        data: PHASES.map((p) => r.median[`${p}_ms`]),
        whiskers: PHASES.map((p) => quartiles(r.samples.map((s) => s.timings[`${p}_ms`]))),
        backgroundColor: structureColor(i), pointStyle: "rect", maxBarThickness: 28,
    }));
    return {
        type: "bar",
        label: `Time per phase: ${results.map((r, i) => `${structures[i].name} prefill ${num(r.median.prefill_ms)} ms, decode ${num(r.median.decode_ms)} ms`).join("; ")}`,
        data: { labels: PHASES, datasets: sets },
        options: options({ x: { type: "category" }, y: { title: "ms", suggestedMax: 1.02 * Math.max(...sets.flatMap((s) => s.whiskers.map((w) => w[1]))) }, tooltip: tooltipOf("ms", (items) => items[0]?.label) }),
    };
}

export const perToken = (r) => {
    const n = r.outputs[0].tokens.length;
    return n > 1 ? r.median.decode_ms / (n - 1) : null;
};

function fidelityRow(structure, r, i) {
    const s = r.structure, f = r.fidelity, kib = r.memory.state_bytes / 1024;
    const cells = [num(r.median.prefill_ms), num(perToken(r)), num(r.median.decode_tokens_per_second), num(kib, 4),
        num(r.memory.weights_active_bytes / 2 ** 20), fixed(f?.mean_kl, 4), fixed(f?.top1_agreement, 3), fixed(f?.bits_per_byte_delta, 3)];
    return el("tr", { class: `s${i}` }, el("th", { scope: "row" }, el("span", { class: "swatch", "aria-hidden": "true" }, String(i + 1)), ` ${structure.name}`),
        el("td", {}, s.origin === "native" ? "native" : s.exactness), ...cells.map((c) => el("td", { class: "n" }, c)));
}

function showMeasured(form, result) {
    const { structures } = form, rows = result.results;
    const lengths = rows.map((r) => [{ x: result.prompt + r.outputs[0].tokens.length, y: r.memory.state_bytes }]);
    $("measured").classList.remove("stale");
    draw("chart-phases", () => phaseChart(structures, rows));
    draw("chart-state", () => stateChart(structures, lengths, form.context, analyticState));
    $("fidelity").tBodies[0].replaceChildren(...rows.map((r, i) => fidelityRow(structures[i], r, i)));
}

async function measure(form, signal) {
    let result = null, runs = 0;
    const all = form.structures.length * (form.repeats + 1);
    await stream("v1/compare", compareBody(form), signal, (event) => {
        if (event.object) result = event;
        else $("progress").textContent = `Measuring: run ${++runs} of ${all}`;
    });
    const { count } = await postJson("tokenize", { model: form.model, prompt: form.sequence }, signal);
    showMeasured(form, { ...result, prompt: count });
    const note = form.temperature > 0 ? " Measured greedily, whatever the temperature of the texts." : "";
    $("measured-note").textContent = `Each structure alone, in turn with the others: ${form.repeats} runs after one warm-up, medians.${note}`;
}

function clearMeasured() {
    $("measured").classList.remove("stale");
    draw("chart-phases", () => null);
    draw("chart-state", () => null);
    $("fidelity").tBodies[0].replaceChildren(el("tr", {}, el("td", { colspan: "10", class: "muted" }, "Nothing measured yet")));
}

export function clear() {
    $("texts").replaceChildren(el("p", { class: "panel empty-texts muted" }, "No texts yet: choose structures, type a sequence and press Run."));
    clearMeasured();
}

export async function run(form, signal) {
    const cards = form.structures.map((s, i) => card(s, i, form));
    $("texts").replaceChildren(...cards.map((c) => c.article));
    $("progress").textContent = "Streaming";
    $("measured").classList.add("stale"); // what stands there is of an earlier run until its place is taken
    const went = await Promise.all(cards.map((c, i) => follow(c, form.structures[i], i, form, signal)));
    if (signal.aborted || went.includes(false)) {
        clearMeasured();
        return signal.aborted ? "Stopped" : "Failed";
    }
    try {
        await measure(form, signal);
    } catch (e) {
        clearMeasured();
        throw e;
    }
    say("Measured: the charts and the table below are filled");
    return "Done";
}
