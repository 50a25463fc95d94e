// The choice of one to four structures: rows of three menus each, filled from GET /v1/structures; and structures as
// text, "gqa(kv_heads=3)+moe+none", as quern's command line writes them.
import { $, el } from "./dom.js";

const SLOTS = ["attention", "ffn", "sharing"];
const TITLES = { attention: "Attention", ffn: "FFN", sharing: "Sharing" };
export const MOST = 4;

let menus = null; // slot -> [{type, exactness, origin, why, entry}]
let native = null;
let picks = []; // [{attention: {type, …}, ffn, sharing}]
let changed = () => {};

// What a client may send of a described part: type, and those parameters that are asked for.
function parsePart(text) {
    const m = /^([a-z_0-9]+)(?:\((.*)\))?$/.exec(text.trim());
    if (!m) return null;
    const part = { type: m[1] };
    for (const pair of (m[2] || "").split(",").filter(Boolean)) {
        const [name, value] = pair.split("=");
        part[name.trim()] = value === "true" ? true : value === "false" ? false : value !== "" && !Number.isNaN(Number(value)) ? Number(value) : value;
    }
    return part;
}

export function parse(text) {
    const parts = text.split(/\+(?![^(]*\))/).map(parsePart);
    if (parts.length !== 3 || parts.some((p) => !p)) return null;
    return { attention: parts[0], ffn: parts[1], sharing: parts[2] };
}

function partText(part) {
    const given = Object.entries(part).filter(([name]) => name !== "type");
    return part.type + (given.length ? `(${given.map(([n, v]) => `${n}=${v}`).join(",")})` : "");
}

export const format = (s) => SLOTS.map((slot) => partText(s[slot])).join("+");

// As a request wants it.
export function toRequest(s) {
    const out = {};
    for (const slot of SLOTS) out[slot] = Object.keys(s[slot]).length > 1 ? { ...s[slot] } : s[slot].type;
    return out;
}

const isDefault = (entry) => entry.parameters.every((p) => p.default == null || entry.structure[p.name] === undefined || entry.structure[p.name] === p.default);

function menu(described, slot) {
    const rows = new Map();
    for (const e of described.structures) {
        if (e.slot !== slot || (slot === "attention" && !e.causal)) continue;
        const type = e.structure.type;
        if (!rows.has(type) || (!isDefault(rows.get(type)) && isDefault(e))) rows.set(type, e);
    }
    return [...rows.values()];
}

const entryOf = (slot, type) => menus?.[slot].find((e) => e.structure.type === type);
const needsLeave = (e) => e.exactness === "approximate" || e.exactness === "untrained";
const labelOf = (e) => (e.exactness === "unavailable" ? "unavailable" : e.origin === "native" ? "native" : e.exactness);

// State bytes at a length by the formula that the server gives; null where it gives none for these parameters.
export function analyticState(s, tokens) {
    const e = entryOf("attention", s.attention.type);
    if (!e || !isDefault(e)) return null;
    for (const [name, value] of Object.entries(s.attention)) if (name !== "type" && e.structure[name] !== value) return null;
    return e.state_fixed_bytes + tokens * e.state_bytes_per_token;
}

export const current = () => picks.map((p) => structuredClone(p));

function suggest() {
    const first = {};
    for (const slot of SLOTS) first[slot] = { type: native[slot].type };
    const others = menus.attention.filter((e) => (e.origin === "native" || e.exactness === "exact") && e.structure.type !== first.attention.type);
    const second = others.length ? { ...structuredClone(first), attention: { type: others[others.length - 1].structure.type } } : null;
    return second ? [first, second] : [first];
}

// The next structure that isn't chosen yet: another attention, else the first one again.
function another() {
    const base = structuredClone(picks[0]);
    const used = new Set(picks.map((p) => p.attention.type));
    const free = menus.attention.find((e) => (e.origin === "native" || e.exactness === "exact") && !used.has(e.structure.type));
    if (free) base.attention = { type: free.structure.type };
    return base;
}

export function setModel(described, nativeStructure, wanted) {
    menus = Object.fromEntries(SLOTS.map((slot) => [slot, menu(described, slot)]));
    native = nativeStructure;
    picks = wanted.map(parse).filter(Boolean).slice(0, MOST);
    if (!picks.length) picks = suggest();
    render();
}

function parameterField(pick, slot, rule, id) {
    const given = pick[slot][rule.name];
    const set = (value) => {
        if (value === undefined) delete pick[slot][rule.name];
        else pick[slot][rule.name] = value;
        changed();
    };
    let input;
    if (rule.type === "integer" || rule.type === "number") {
        input = el("input", {
            type: "number", id, min: rule.minimum, max: rule.maximum, step: rule.type === "integer" ? 1 : "any",
            placeholder: rule.default ?? "", value: given ?? "",
            onchange: (e) => set(e.target.value === "" ? undefined : Number(e.target.value)),
        });
    } else {
        const values = rule.type === "boolean" ? [true, false] : rule.values || [];
        input = el("select", { id, onchange: (e) => set(e.target.value === "" ? undefined : rule.type === "boolean" ? e.target.value === "true" : e.target.value) },
            el("option", { value: "" }, `default${rule.default == null ? "" : ` (${rule.default})`}`),
            ...values.map((v) => el("option", { value: String(v), selected: given === v }, String(v))));
    }
    return el("div", { class: "field" }, el("label", { for: id }, rule.name.replaceAll("_", " ")), input);
}

function parameters(pick, index) {
    const fields = [];
    for (const slot of SLOTS) {
        for (const rule of entryOf(slot, pick[slot].type)?.parameters || []) {
            if (rule.name === "causal") continue; // what looks ahead can't generate
            fields.push(parameterField(pick, slot, rule, `p${index}-${slot}-${rule.name}`));
        }
    }
    if (!fields.length) return null;
    const open = SLOTS.some((slot) => Object.keys(pick[slot]).length > 1);
    return el("details", { open }, el("summary", {}, "Parameters"), el("div", { class: "numbers" }, ...fields));
}

function option(e, chosen) {
    const label = labelOf(e);
    const locked = label === "unavailable" || (needsLeave(e) && !$("convert").checked);
    return el("option", { value: e.structure.type, selected: chosen, disabled: locked && !chosen, title: e.why || false },
        label === "native" ? e.structure.type : `${e.structure.type} (${label})`);
}

function select(pick, index, slot) {
    const id = `s${index}-${slot}`;
    const type = pick[slot].type;
    const options = menus[slot].map((e) => option(e, e.structure.type === type));
    if (!entryOf(slot, type)) options.unshift(el("option", { value: type, selected: true }, `${type} (unknown)`));
    const menuOf = el("select", {
        id,
        onchange: (e) => {
            pick[slot] = { type: e.target.value };
            render(id);
        },
    }, ...options);
    return el("div", { class: "field" }, el("label", { for: id }, TITLES[slot]), menuOf);
}

function row(pick, index) {
    const remove = el("button", {
        type: "button", class: "quiet", "aria-label": `Remove structure ${index + 1}`, title: "Remove", disabled: picks.length === 1,
        onclick: () => {
            picks.splice(index, 1);
            render(picks.length === 1 ? "s0-attention" : `s${Math.min(index, picks.length - 1)}-attention`);
        },
    }, "×");
    return el("li", { class: `pick s${index}` }, el("span", { class: "swatch", "aria-hidden": "true" }, String(index + 1)),
        el("div", { class: "menus", role: "group", "aria-label": `Structure ${index + 1}` }, ...SLOTS.map((slot) => select(pick, index, slot))),
        remove, parameters(pick, index));
}

function render(focus) {
    $("picks").replaceChildren(...picks.map(row));
    $("add").disabled = picks.length >= MOST || !menus;
    if (focus) $(focus)?.focus();
    changed();
}

export function start(onChange) {
    changed = onChange;
    $("add").addEventListener("click", () => {
        picks.push(another());
        render(`s${picks.length - 1}-attention`);
    });
    $("convert").addEventListener("change", () => menus && render("convert"));
}
