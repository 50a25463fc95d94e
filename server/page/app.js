// The page: one form for both measuring views, what the address holds of it, theme, key, clipboard.
import { curl, getJson, key, setKey } from "./api.js";
import { redraw } from "./charts.js";
import { $, say, trouble } from "./dom.js";
import * as live from "./live.js";
import * as run from "./run.js";
import * as structures from "./structures.js";
import * as sweep from "./sweep.js";

const VIEWS = ["run", "sweep", "server"];
const LINK_MOST = 4000; // longer sequences don't go into the address
// Form fields that the address holds: parameter, element, default; null: it follows from the model (data-standard).
const FIELDS = [["q", "sequence", null], ["n", "max-tokens", "200"], ["t", "temperature", "0"], ["seed", "seed", "1"], ["r", "repeats", "5"],
    ["lengths", "lengths", null], ["w", "sweep-tokens", "32"], ["k", "sweep-repeats", "5"]];

let models = []; // [{info, described}]
let view = "run";
let working = null; // AbortController of what runs
let loading = null;
let written = ""; // the hash as this page wrote it last
let wantedStructures = [], wantedModel = "";

// ---- the form ----

function integer(id, name) {
    const text = $(id).value.trim(), x = Number(text);
    if (text === "" || !Number.isInteger(x)) throw Object.assign(new Error(`${name} must be a whole number`), { field: id });
    return x;
}

function lengths() {
    const list = $("lengths").value.split(/[\s,;]+/).filter(Boolean).map(Number);
    if (!list.length || list.some((x) => !Number.isInteger(x) || x < 1))
        throw Object.assign(new Error("Prompt lengths must be whole numbers above 0, separated by commas"), { field: "lengths" });
    return [...new Set(list)].sort((a, b) => a - b);
}

// Shortest names that tell the chosen structures apart.
function named(list) {
    const parts = ["attention", "ffn", "sharing"];
    const whole = list.map((s) => structures.format(s).split(/\+(?![^(]*\))/));
    const differs = parts.map((_, k) => k < 2 || whole.some((w) => w[k] !== "none"));
    return list.map((s, i) => ({ ...s, name: whole[i].filter((_, k) => differs[k]).join("+") }));
}

function readForm() {
    const m = models.find((x) => x.info.id === $("model").value);
    const temperature = Number($("temperature").value);
    if (!(temperature >= 0)) throw Object.assign(new Error("Temperature must be a number, 0 or more"), { field: "temperature" });
    const form = {
        model: m?.info.id, context: m?.info.context ?? 0, sequence: $("sequence").value, convert: $("convert").checked,
        structures: named(structures.current()), temperature, seed: integer("seed", "Seed"),
    };
    if (view === "sweep") Object.assign(form, { lengths: lengths(), sweepTokens: integer("sweep-tokens", "New tokens"), sweepRepeats: integer("sweep-repeats", "Measured runs") });
    else Object.assign(form, { maxTokens: integer("max-tokens", "New tokens"), repeats: integer("repeats", "Measured runs") });
    return form;
}

// ---- the address ----

function writeAddress() {
    const p = new URLSearchParams();
    if ($("model").value && models.length) p.set("m", $("model").value);
    for (const s of structures.current()) p.append("s", structures.format(s));
    if (!models.length) wantedStructures.forEach((s) => p.append("s", s));
    for (const [name, id, standard] of FIELDS) {
        const value = $(id).value;
        if (value !== (standard ?? $(id).dataset.standard) && value.length <= LINK_MOST) p.set(name, value);
    }
    if ($("convert").checked) p.set("c", "1");
    const text = p.toString();
    written = `#${view}${text ? `?${text}` : ""}`;
    if (location.hash !== written) history.replaceState(null, "", written);
    for (const a of document.querySelectorAll("nav a")) a.href = `#${a.dataset.view}${text ? `?${text}` : ""}`;
}

function readAddress() {
    const [name, query] = location.hash.slice(1).split(/\?(.*)/s);
    const p = new URLSearchParams(query || "");
    view = VIEWS.includes(name) ? name : "run";
    for (const [parameter, id, standard] of FIELDS) {
        const given = p.get(parameter);
        if (given !== null && ($(id).type !== "number" || /^\d+(\.\d+)?$/.test(given))) $(id).value = given;
        else $(id).value = standard ?? $(id).dataset.standard ?? "";
    }
    $("convert").checked = p.get("c") === "1";
    wantedStructures = p.getAll("s");
    wantedModel = p.get("m") || "";
}

// ---- views ----

function showView() {
    for (const v of VIEWS) $(`view-${v}`).hidden = v !== view;
    for (const a of document.querySelectorAll("nav a")) {
        if (a.dataset.view === view) a.setAttribute("aria-current", "page");
        else a.removeAttribute("aria-current");
    }
    $("form").hidden = view === "server";
    for (const part of document.querySelectorAll("#form [data-for]")) part.hidden = part.dataset.for !== view;
    if (!working) $("go").textContent = view === "sweep" ? "Sweep" : "Run";
    live.visible(view === "server");
}

// ---- models ----

// A default that depends on the model takes the place of the last one, and of nothing else.
function setStandard(id, value) {
    if (!$(id).value || $(id).value === $(id).dataset.standard) $(id).value = value;
    $(id).dataset.standard = value;
}

function chooseModel() {
    const m = models.find((x) => x.info.id === $("model").value);
    if (!m) return;
    const fitting = [64, 128, 256, 512, 1024, 2048].filter((n) => n + 32 <= m.info.context);
    setStandard("lengths", (fitting.length ? fitting : [Math.max(1, m.info.context - 32)]).join(", "));
    setStandard("sequence", m.info.id === "grist" ? "ROMEO:\n" : "Once upon a time"); // grist knows Shakespeare only
    structures.setModel(m.described, m.info.structure, wantedStructures);
    wantedStructures = [];
}

async function load() {
    loading?.abort();
    clearTimeout(load.timer);
    loading = new AbortController();
    $("go").disabled = true;
    try {
        const [list, described] = await Promise.all([getJson("v1/models", loading.signal), getJson("v1/structures", loading.signal)]);
        models = list.data.map((info) => ({ info, described: described.data.find((d) => d.model === info.id) })).filter((m) => m.described);
        $("model").replaceChildren(...models.map(({ info }) => new Option(`${info.id} (${info.family}, ${(info.parameters / 1e6).toFixed(0)} M, context ${info.context})`, info.id)));
        if (models.some((m) => m.info.id === wantedModel)) $("model").value = wantedModel;
        trouble(null);
        chooseModel();
        $("go").disabled = false;
        writeAddress();
    } catch (e) {
        if (e.name === "AbortError") return;
        trouble(e);
        $("model").replaceChildren(new Option("not loaded", ""));
        if (e.status === 401) $("key").focus();
        else load.timer = setTimeout(load, Math.max(1, e.retryAfter || 2) * 1000); // loading, or away
    }
}

// ---- actions ----

async function go() {
    if (working) {
        working.abort();
        return;
    }
    let form;
    trouble(null);
    try {
        form = readForm();
    } catch (e) {
        trouble(e);
        $(e.field)?.focus();
        return;
    }
    writeAddress();
    working = new AbortController();
    $("go").textContent = "Stop";
    $("progress").textContent = "Running";
    say("Running");
    let end;
    try {
        end = await (view === "sweep" ? sweep.sweep(form, working.signal) : run.run(form, working.signal));
    } catch (e) {
        end = e.name === "AbortError" ? "Stopped" : "Failed";
        if (end === "Failed") trouble(e);
    }
    working = null;
    $("progress").textContent = end;
    showView();
}

async function copy(text, what) {
    try {
        await navigator.clipboard.writeText(text);
        say(`${what} copied`);
        $("progress").textContent = `${what} copied`;
    } catch { // without https there is no clipboard: show it, selected
        $("curl-text").value = text;
        $("curl").showModal();
        $("curl-text").select();
    }
}

// The measurement of this view as a command; of a sweep its shortest length.
async function currentCurl() {
    const form = readForm();
    return curl("v1/compare", view === "run" ? run.compareBody(form) : await sweep.bodyOf(form, form.lengths[0]));
}

function wire() {
    $("form").addEventListener("submit", (e) => {
        e.preventDefault();
        go();
    });
    document.addEventListener("keydown", (e) => {
        if (e.key !== "Enter" || !(e.ctrlKey || e.metaKey) || view === "server" || working || $("go").disabled) return;
        e.preventDefault();
        go();
    });
    $("form").addEventListener("change", writeAddress);
    $("sequence").addEventListener("input", writeAddress);
    $("model").addEventListener("change", () => {
        chooseModel();
        writeAddress();
    });
    $("key").value = key();
    $("key").addEventListener("change", () => {
        setKey($("key").value.trim());
        load();
    });
    $("copy-curl").addEventListener("click", async () => {
        try {
            await copy(await currentCurl(), "Command");
        } catch (e) {
            trouble(e);
        }
    });
    document.addEventListener("copy-curl", (e) => copy(e.detail, "Command"));
    $("copy-link").addEventListener("click", () => {
        writeAddress();
        copy(location.href, $("sequence").value.length > LINK_MOST ? "Link without the sequence, which is too long for one," : "Link");
    });
    $("skip").addEventListener("click", (e) => { // the hash is taken: it holds the view
        e.preventDefault();
        $("main").focus();
    });
    window.addEventListener("hashchange", () => {
        if (location.hash === written) return;
        const query = (hash) => hash.split(/\?(.*)/s)[1] || "", name = location.hash.slice(1).split("?")[0];
        if (VIEWS.includes(name) && query(location.hash) === query(written)) { // another view of the same form
            view = name;
            showView();
            writeAddress();
            return;
        }
        readAddress();
        if (wantedModel && models.some((m) => m.info.id === wantedModel)) $("model").value = wantedModel;
        if (wantedStructures.length) chooseModel();
        showView();
        writeAddress();
    });
}

function theme() {
    const root = document.documentElement;
    $("theme").value = root.dataset.theme || "auto";
    $("theme").addEventListener("change", () => {
        const chosen = $("theme").value;
        if (chosen === "auto") delete root.dataset.theme;
        else root.dataset.theme = chosen;
        try {
            localStorage.setItem("quern-theme", chosen);
        } catch { /* it holds for this visit */ }
        redraw();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

structures.start(() => models.length && writeAddress());
wire();
theme();
live.start();
run.clear();
sweep.clear();
readAddress();
showView();
load();
