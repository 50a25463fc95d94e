// The third view: /metrics once a second, as tiles and as lines over the last minutes.
import { request } from "./api.js";
import { draw, line, options } from "./charts.js";
import { $, byteStep, bytes, el, num, trouble, whole } from "./dom.js";

const EVERY = 1000, KEEP = 60;
let timer = 0, paused = false, shown = false, stop = null;
let samples = []; // {t, rate, prompt, running, queued, used, cached}
let last = null;

// Prometheus text -> [{name, labels, value}].
export function parse(text) {
    const out = [];
    for (const row of text.split("\n")) {
        const m = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(row);
        if (!m) continue;
        const labels = Object.fromEntries([...(m[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((x) => [x[1], x[2].replace(/\\(["\\])/g, "$1")]));
        out.push({ name: m[1], labels, value: Number(m[3]) });
    }
    return out;
}

function reader(rows) {
    return (name, labels = {}) => rows.filter((r) => r.name === name && Object.entries(labels).every(([k, v]) => r.labels[k] === v)).reduce((sum, r) => sum + r.value, 0);
}

function take(rows) {
    const get = reader(rows), now = performance.now() / 1000;
    const counts = { t: now, made: get("quern_generated_tokens_total"), read: get("quern_prompt_tokens_total"), started: get("process_start_time_seconds") };
    const s = {
        t: now, running: get("quern_running"), queued: get("quern_queue_depth"), queuedTokens: get("quern_queue_tokens"),
        used: get("quern_bytes", { kind: "state_used" }), cached: get("quern_bytes", { kind: "state_cached" }), budget: get("quern_kv_budget_bytes"),
        rss: get("process_resident_memory_bytes"), refused: get("quern_refused_total"), requests: get("quern_requests_total"),
        uptime: Date.now() / 1000 - counts.started, rate: null, prompt: null,
    };
    if (last && last.started === counts.started && now > last.t) { // else the server is a new one: its counters begin at 0
        s.rate = (counts.made - last.made) / (now - last.t);
        s.prompt = (counts.read - last.read) / (now - last.t);
    }
    last = counts;
    samples.push(s);
    samples = samples.filter((x) => now - x.t <= KEEP);
    return s;
}

function duration(s) {
    if (s < 120) return `${Math.round(s)} s`;
    if (s < 7200) return `${Math.round(s / 60)} min`;
    return `${num(s / 3600)} h`;
}

function tiles(s) {
    const rows = [
        ["Running", whole(s.running), "requests"], ["Queue", whole(s.queued), `requests, ${whole(s.queuedTokens)} tokens`],
        ["Generated", s.rate === null ? "–" : num(s.rate), "tokens/s"], ["Prompts read", s.prompt === null ? "–" : num(s.prompt), "tokens/s"],
        ["State used", bytes(s.used), s.budget ? `${((100 * s.used) / s.budget).toFixed(2)} % of ${bytes(s.budget)}` : ""], ["State cached", bytes(s.cached), "prefixes kept for later"],
        ["Requests", whole(s.requests), `done, ${whole(s.refused)} refused`], ["Memory", bytes(s.rss), `resident, up ${duration(s.uptime)}`],
    ];
    $("tiles").replaceChildren(...rows.map(([name, value, unit]) => el("div", { class: "panel tile" }, el("dt", {}, name), el("dd", {}, el("strong", {}, value), el("span", {}, unit)))));
}

function models(rows) {
    const get = reader(rows), mib = (x) => num(x / 2 ** 20);
    const names = [...new Set(rows.filter((r) => r.name === "quern_bytes" && r.labels.model).map((r) => r.labels.model))];
    $("models").tBodies[0].replaceChildren(...names.map((model) => el("tr", {}, el("th", { scope: "row" }, model),
        ...["weights", "state_used", "state_cached", "state_budget"].map((kind) => el("td", { class: "n" }, mib(get("quern_bytes", { model, kind })))))));
}

function timeChart(series, unit, name) {
    const now = samples.at(-1).t;
    const sets = series.map(([label, field, i]) => ({
        ...line(i, { pointRadius: 0, pointHoverRadius: 4, pointStyle: "line" }), label,
        data: samples.filter((s) => s[field] !== null).map((s) => ({ x: s.t - now, y: s[field] })),
    }));
    const top = Math.max(0, ...sets.flatMap((s) => s.data.map((p) => p.y)));
    return {
        type: "line",
        label: `${name}: now ${sets.map((s) => `${s.label} ${s.data.length ? (unit === "bytes" ? bytes(s.data.at(-1).y) : num(s.data.at(-1).y)) : "–"}`).join(", ")}`,
        data: { datasets: sets },
        options: options({
            x: { title: "seconds ago", min: -KEEP, max: 0, ticks: { callback: (v) => String(-v) } },
            y: { unit, ticks: unit === "requests" ? { precision: 0 } : {}, suggestedMax: { requests: 4, "tokens/s": 10 }[unit], max: unit === "bytes" && top ? Math.ceil(top / byteStep(top)) * byteStep(top) : undefined },
            tooltip: {
                title: (items) => (items.length ? `${Math.round(-items[0].parsed.x)} s ago` : ""),
                label: (c) => ` ${c.dataset.label}: ${unit === "bytes" ? bytes(c.parsed.y) : `${num(c.parsed.y)} ${unit}`}`,
            },
        }),
    };
}

function show() {
    draw("chart-rate", () => (samples.length < 2 ? null : timeChart([["generated", "rate", 0], ["prompts read", "prompt", 1]], "tokens/s", "Tokens per second")));
    draw("chart-load", () => (samples.length < 2 ? null : timeChart([["running", "running", 0], ["queued", "queued", 1]], "requests", "Requests")));
    draw("chart-kv", () => (samples.length < 2 ? null : timeChart([["used", "used", 0], ["cached", "cached", 1]], "bytes", "State")));
}

async function poll() {
    clearTimeout(timer);
    if (!shown || paused) return;
    if (!document.hidden) {
        stop = new AbortController();
        try {
            const rows = parse(await (await request("metrics", undefined, stop.signal)).text());
            tiles(take(rows));
            models(rows);
            show();
            $("live-note").textContent = "every second";
            trouble(null);
        } catch (e) {
            if (e.name === "AbortError") return;
            $("live-note").textContent = "no answer";
            trouble(e);
        }
    }
    timer = setTimeout(poll, EVERY);
}

export function visible(yes) {
    if (shown === yes) return;
    shown = yes;
    stop?.abort();
    clearTimeout(timer);
    if (yes) poll();
}

export function start() {
    $("pause").addEventListener("click", () => {
        paused = !paused;
        $("pause").setAttribute("aria-pressed", String(paused));
        $("live-note").textContent = paused ? "paused" : "";
        poll();
    });
}
