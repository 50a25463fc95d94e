// The second view: the sequence repeated up to each length, one /v1/compare per length, curves of time and memory.
import { postJson, stream } from "./api.js";
import { draw, line, options, stateChart, tooltipOf } from "./charts.js";
import { $, el, num, say, whole } from "./dom.js";
import { perToken } from "./run.js";
import { analyticState, toRequest } from "./structures.js";

// As many tokens as wanted from the sequence's own, the first one (which may begin a sequence) once only.
function stretch(tokens, n) {
    const out = tokens.slice(0, n);
    const again = tokens.length > 1 ? tokens.slice(1) : tokens;
    while (out.length < n) out.push(...again.slice(0, n - out.length));
    return out;
}

async function tokensOf(form, signal) {
    const { tokens } = await postJson("tokenize", { model: form.model, prompt: form.sequence }, signal);
    if (!tokens.length) throw new Error("The sequence has no tokens to repeat");
    return tokens;
}

function compareBody(form, tokens, length) {
    const body = { model: form.model, sequence: stretch(tokens, length), structures: form.structures.map(toRequest), max_tokens: form.sweepTokens, repeats: form.sweepRepeats, ignore_eos: true };
    if (form.convert) body.convert = true;
    return body;
}

export const bodyOf = async (form, length) => compareBody(form, await tokensOf(form), length);

function curve(structures, points, of, unit, name) {
    if (!points.length) return null;
    const sets = structures.map((s, i) => ({ ...line(i), label: s.name, data: points.map((p) => ({ x: p.length, y: of(p.results[i]) })) }));
    const last = points.at(-1);
    return {
        type: "line",
        label: `${name}: at ${last.length} tokens ${structures.map((s, i) => `${s.name} ${num(of(last.results[i]))} ${unit}`).join(", ")}`,
        data: { datasets: sets },
        options: options({ x: { title: "tokens of prompt", max: Math.max(...points.map((p) => p.length)) }, y: { title: unit }, tooltip: tooltipOf(unit) }),
    };
}

// One row a length, three columns a structure.
function table(structures, points) {
    const head = [el("tr", {}, el("th", { scope: "col", rowspan: "2" }, "Prompt", el("br"), el("small", {}, "tokens")),
        ...structures.map((s, i) => el("th", { scope: "colgroup", colspan: "3", class: `group s${i}` }, el("span", { class: "swatch", "aria-hidden": "true" }, String(i + 1)), " ", el("span", { class: "name" }, s.name)))),
    el("tr", {}, ...structures.flatMap(() => [["Prefill", "ms"], ["Decode", "ms/token"], ["State", "KiB"]].map(([name, unit]) => el("th", { scope: "col", class: "n" }, name, el("br"), el("small", {}, unit)))))];
    const body = points.map((p) => el("tr", {}, el("th", { scope: "row" }, whole(p.length)),
        ...p.results.flatMap((r) => [num(r.median.prefill_ms), num(perToken(r)), num(r.memory.state_bytes / 1024, 4)].map((c) => el("td", { class: "n" }, c)))));
    $("sweep-table").tHead.replaceChildren(...(points.length ? head : []));
    $("sweep-table").tBodies[0].replaceChildren(...(points.length ? body : [el("tr", {}, el("td", { class: "muted" }, "Nothing measured yet"))]));
}

function show(form, points) {
    const { structures } = form;
    draw("chart-prefill", () => curve(structures, points, (r) => r.median.prefill_ms, "ms", "Prefill time against length"));
    draw("chart-decode", () => curve(structures, points, perToken, "ms/token", "Decode time against length"));
    draw("chart-memory", () => stateChart(structures, structures.map((_, i) => points.map((p) => ({ x: p.length + p.results[i].outputs[0].tokens.length, y: p.results[i].memory.state_bytes }))), form.context, analyticState));
    table(structures, points);
}

export function clear() {
    show({ structures: [], context: 0 }, []);
}

export async function sweep(form, signal) {
    clear();
    const tokens = await tokensOf(form, signal), points = [];
    for (const length of form.lengths) {
        let runs = 0;
        const all = form.structures.length * (form.sweepRepeats + 1);
        await stream("v1/compare", compareBody(form, tokens, length), signal, (event) => {
            if (event.object) points.push({ length, results: event.results });
            else $("progress").textContent = `${whole(length)} tokens: run ${++runs} of ${all}`;
        });
        show(form, points);
    }
    say(`Measured at ${points.length} lengths`);
    return "Done";
}
