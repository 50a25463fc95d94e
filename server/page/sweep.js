// The second view: the sequence repeated up to each length, one /v1/compare per length, curves of time and memory.
import { postJson, stream } from "./api.js";
import { draw, line, options, stateChart, tooltipOf } from "./charts.js";
import { $, el, num, say } from "./dom.js";
import { perToken } from "./run.js";
import { analyticState, toRequest } from "./structures.js";

// As many tokens as wanted from the sequence's own, the first one (which may begin a sequence) once only.
function stretch(tokens, n) {
    const out = tokens.slice(0, n);
    const again = tokens.length > 1 ? tokens.slice(1) : tokens;
    while (out.length < n) out.push(...again.slice(0, n - out.length));
    return out;
}

export function sweepBody(form, tokens) {
    const body = { model: form.model, sequence: tokens, structures: form.structures.map(toRequest), max_tokens: form.sweepTokens, repeats: form.sweepRepeats, ignore_eos: true };
    if (form.convert) body.convert = true;
    return body;
}

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

function rows(structures, points) {
    return structures.flatMap((s, i) => points.map((p) => {
        const r = p.results[i];
        return el("tr", { class: `s${i}` }, el("th", { scope: "row" }, el("span", { class: "swatch", "aria-hidden": "true" }, String(i + 1)), ` ${s.name}`),
            ...[num(p.length, 6), num(r.median.prefill_ms), num(perToken(r)), num(r.memory.state_bytes / 1024, 4)].map((c) => el("td", { class: "n" }, c)));
    }));
}

function show(form, points) {
    const { structures } = form;
    draw("chart-prefill", () => curve(structures, points, (r) => r.median.prefill_ms, "ms", "Prefill time against length"));
    draw("chart-decode", () => curve(structures, points, perToken, "ms/token", "Decode time against length"));
    draw("chart-memory", () => stateChart(structures, structures.map((_, i) => points.map((p) => ({ x: p.length + p.results[i].outputs[0].tokens.length, y: p.results[i].memory.state_bytes }))), form.context, analyticState));
    $("sweep-table").tBodies[0].replaceChildren(...(points.length ? rows(structures, points) : [el("tr", {}, el("td", { colspan: "5", class: "muted" }, "Nothing measured yet"))]));
}

export function clear() {
    show({ structures: [], context: 0 }, []);
}

export async function sweep(form, signal) {
    const { tokens } = await postJson("tokenize", { model: form.model, prompt: form.sequence }, signal);
    if (!tokens.length) throw new Error("The sequence has no tokens to repeat");
    const points = [];
    for (const length of form.lengths) {
        let runs = 0;
        const all = form.structures.length * (form.sweepRepeats + 1);
        await stream("v1/compare", sweepBody(form, stretch(tokens, length)), signal, (event) => {
            if (event.object) points.push({ length, results: event.results });
            else $("progress").textContent = `${num(length, 6)} tokens: run ${++runs} of ${all}`;
        });
        show(form, points);
    }
    say(`Measured at ${points.length} lengths`);
    return "Done";
}
