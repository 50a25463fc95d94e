// Small helpers: elements, numbers with their units, announcements, errors. No state.

export const $ = (id) => document.getElementById(id);

// el("td", {class: "x", onclick: f}, child, "text"…)
export function el(tag, attributes = {}, ...children) {
    const e = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
        if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
        else if (value === true) e.setAttribute(name, "");
        else if (value !== false && value != null) e.setAttribute(name, value);
    }
    e.append(...children.filter((c) => c != null));
    return e;
}

// Three significant digits, thousands separated; an absent number is a dash.
export function num(x, digits = 3) {
    if (x == null || Number.isNaN(x)) return "–";
    if (x === 0) return "0";
    const whole = Math.floor(Math.log10(Math.abs(x))) + 1;
    const places = Math.max(0, Math.min(6, digits - whole));
    return x.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
}

// A count, or another number that is whole by nature.
export const whole = (x) => (x == null ? "–" : Math.round(x).toLocaleString("en"));

export const fixed = (x, places) => (x == null ? "–" : x.toFixed(places));

export function bytes(x) {
    if (x == null) return "–";
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let u = 0;
    while (x >= 1024 && u < units.length - 1) {
        x /= 1024;
        u++;
    }
    return `${u ? num(x) : x} ${units[u]}`;
}

// A step of 1, 2, 4 … times a power of 1024, so that an axis of bytes has round ticks; about `ticks` of them.
export function byteStep(most, ticks = 5) {
    return most > 0 ? 2 ** Math.ceil(Math.log2(most / ticks)) : 1;
}

// Says it to those who can't see it happen.
export function say(text) {
    $("status").textContent = text;
}

// An error's message as the server gave it, with what else it said.
export function describe(error) {
    const more = [error.status, error.code, error.param && `field ${error.param}`, error.retryAfter && `retry after ${error.retryAfter} s`,
        error.requestId].filter(Boolean).join(" · ");
    return [el("strong", {}, error.message), more ? el("small", {}, more) : null].filter(Boolean);
}

export function trouble(error) {
    const box = $("trouble");
    box.hidden = !error;
    box.replaceChildren(...(error ? describe(error) : []));
}
