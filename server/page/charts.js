// Charts by Chart.js (a classic script: the global Chart), in the page's colours, drawn again when the theme changes.
// A structure has the same colour, point and dash everywhere, so that colour alone never has to tell it.
import { $, byteStep, bytes, num, whole } from "./dom.js";

/* global Chart */
const POINTS = ["circle", "rectRot", "triangle", "rect"];
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const made = new Map(); // canvas id -> function that gives {label, config}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
export const structureColor = (i) => color(`s${i}`);

// Look of one structure's line.
export function line(i, extra = {}) {
    const c = structureColor(i);
    return { borderColor: c, backgroundColor: c, borderWidth: 2, borderDash: DASHES[i], pointStyle: POINTS[i], pointRadius: 5, pointHoverRadius: 7, tension: 0, clip: 8, ...extra };
}

// Whiskers from the first to the third quartile: dataset.whiskers = [[low, high], …].
const whiskers = {
    id: "whiskers",
    afterDatasetsDraw(chart) {
        const { ctx } = chart;
        ctx.save();
        ctx.strokeStyle = color("text");
        ctx.lineWidth = 1.25;
        chart.data.datasets.forEach((set, k) => {
            if (!set.whiskers || !chart.isDatasetVisible(k)) return;
            const scale = chart.scales[set.yAxisID || "y"];
            chart.getDatasetMeta(k).data.forEach((bar, i) => {
                const [low, high] = (set.whiskers[i] || []).map((v) => scale.getPixelForValue(v));
                if (low === undefined || Math.abs(low - high) < 2) return;
                ctx.beginPath();
                ctx.moveTo(bar.x, low);
                ctx.lineTo(bar.x, high);
                for (const y of [low, high]) {
                    ctx.moveTo(bar.x - 3, y);
                    ctx.lineTo(bar.x + 3, y);
                }
                ctx.stroke();
            });
        });
        ctx.restore();
    },
};

function axis(title, unit, type) {
    const a = {
        title: { display: Boolean(title), text: title, color: color("muted") },
        grid: { color: color("grid"), borderColor: color("grid"), tickColor: "transparent" },
        ticks: { color: color("muted"), maxRotation: 0, autoSkipPadding: 12, maxTicksLimit: 7, callback: unit === "bytes" ? (v) => bytes(v) : undefined },
    };
    if (!a.ticks.callback) delete a.ticks.callback;
    if (type === "category") Object.assign(a.ticks, { autoSkip: false, maxRotation: 60 });
    return a;
}

// The common part of all charts. x, y: {title, unit: "bytes" or nothing, type, max}.
export function options({ x, y, tooltip, legend = true, filter }) {
    const scale = ({ title, unit, type, max, min, suggestedMax, ticks }) => {
        const s = { ...axis(title, unit, type), type: type || "linear", beginAtZero: true };
        if (max !== undefined) s.max = max;
        if (min !== undefined) s.min = min;
        if (suggestedMax !== undefined) s.suggestedMax = suggestedMax;
        Object.assign(s.ticks, ticks);
        if (unit === "bytes" && max) s.ticks.stepSize = byteStep(max);
        return s;
    };
    return {
        animation: false,
        responsive: true,
        maintainAspectRatio: false,
        interaction: { mode: "nearest", intersect: false },
        scales: { x: scale(x), y: scale(y) },
        plugins: {
            legend: {
                display: legend, position: "bottom", align: "start",
                labels: { color: color("text"), usePointStyle: true, boxHeight: 7, padding: 14, filter },
            },
            tooltip: {
                backgroundColor: color("tip"), titleColor: color("tip-text"), bodyColor: color("tip-text"), padding: 10, usePointStyle: true,
                callbacks: tooltip || {},
            },
        },
    };
}

export const tooltipOf = (unit, title) => ({
    title: title || ((items) => (items.length ? `${whole(items[0].parsed.x)} tokens` : "")),
    label: (c) => ` ${c.dataset.label}: ${unit === "bytes" ? bytes(c.parsed.y) : `${num(c.parsed.y)} ${unit}`}`,
});

function font() {
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    Chart.defaults.font.size = 12;
}

// Draws into the canvas what build() gives: {label, type, data, options}; null empties it.
export function draw(id, build) {
    made.set(id, build);
    const canvas = $(id), config = build(), empty = canvas.parentElement.querySelector(".empty");
    const old = Chart.getChart(canvas);
    empty.hidden = Boolean(config);
    if (!config) {
        old?.destroy();
        return;
    }
    canvas.setAttribute("aria-label", config.label);
    font();
    if (old && old.config.type === config.type) {
        old.data = config.data;
        old.options = config.options;
        old.update("none");
        return;
    }
    old?.destroy();
    new Chart(canvas, { type: config.type, data: config.data, options: config.options, plugins: [whiskers] });
}

export function redraw() {
    for (const [id, build] of made) draw(id, build);
}

// State against length, for the run and the sweep: formulas as lines, measurements as points.
export function stateChart(structures, measured, context, formula) {
    if (!measured.some((m) => m.length)) return null;
    const longest = Math.max(...measured.flat().map((p) => p.x));
    const end = Math.min(context, Math.max(64, 2 ** Math.ceil(Math.log2(longest))));
    const sets = [];
    structures.forEach((s, i) => {
        const at = Array.from({ length: 17 }, (_, k) => Math.round((end * k) / 16));
        const points = at.map((x) => ({ x, y: formula(s, x) }));
        if (points[0].y !== null) sets.push({ ...line(i, { pointRadius: 0, pointHoverRadius: 0 }), label: `${s.name}, formula`, data: points, formula: true });
        sets.push({ ...line(i), label: s.name, data: measured[i], showLine: false });
    });
    const top = Math.max(...sets.flatMap((s) => s.data.map((p) => p.y)));
    return {
        type: "line",
        label: `State against length: ${structures.map((s, i) => (measured[i].length ? `${s.name} ${bytes(measured[i].at(-1).y)} at ${measured[i].at(-1).x} tokens` : "")).filter(Boolean).join("; ")}`,
        data: { datasets: sets },
        options: options({
            x: { title: "tokens in the sequence", max: end }, y: { unit: "bytes", max: Math.ceil(top / byteStep(top)) * byteStep(top) },
            tooltip: tooltipOf("bytes"), filter: (item, data) => !data.datasets[item.datasetIndex].formula,
        }),
    };
}
