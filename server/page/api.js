// The server's API: requests with the key, errors as the server words them, event streams, curl commands.

const KEY = "quern-key"; // in sessionStorage: gone with the tab

export class ApiError extends Error {
    constructor(message, more = {}) {
        super(message);
        Object.assign(this, more);
    }
}

export function key() {
    try {
        return sessionStorage.getItem(KEY) || "";
    } catch {
        return "";
    }
}

export function setKey(value) {
    try {
        if (value) sessionStorage.setItem(KEY, value);
        else sessionStorage.removeItem(KEY);
    } catch { /* no storage: the key can't be kept */ }
}

async function failure(response) {
    const more = {
        status: response.status,
        retryAfter: Number(response.headers.get("retry-after")) || 0,
        requestId: response.headers.get("x-request-id"),
    };
    const text = await response.text().catch(() => "");
    try {
        const { error } = JSON.parse(text);
        return new ApiError(error.message, { ...more, code: error.code, param: error.param });
    } catch {
        return new ApiError(text.trim() || `The server answered ${response.status}`, more);
    }
}

// GET without a body, POST with one.
export async function request(path, body, signal) {
    const headers = {};
    if (key()) headers.authorization = `Bearer ${key()}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    let response;
    try {
        response = await fetch(path, {
            method: body === undefined ? "GET" : "POST",
            headers,
            body: body === undefined ? undefined : JSON.stringify(body),
            signal,
            cache: "no-store",
        });
    } catch (e) {
        if (e.name === "AbortError") throw e;
        throw new ApiError("The server can't be reached");
    }
    if (!response.ok) throw await failure(response);
    return response;
}

export const getJson = async (path, signal) => (await request(path, undefined, signal)).json();
export const postJson = async (path, body, signal) => (await request(path, body, signal)).json();

// POST with "stream": true; onEvent gets every data line as an object. Returns after [DONE].
export async function stream(path, body, signal, onEvent) {
    const response = await request(path, { ...body, stream: true }, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
        const { done, value } = await reader.read();
        if (done) throw new ApiError("The stream ended before its end");
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
            if (!line.startsWith("data: ")) continue;
            const data = line.slice(6);
            if (data === "[DONE]") return;
            const event = JSON.parse(data);
            if (event.error) throw new ApiError(event.error.message, { code: event.error.code, param: event.error.param });
            onEvent(event);
        }
    }
}

// A command for a POSIX shell; the key stays out of it.
export function curl(path, body) {
    const quote = (s) => `'${s.replaceAll("'", `'\\''`)}'`;
    const url = new URL(path, document.baseURI).href;
    const lines = [`curl -sN ${quote(url)}`, "-H 'Content-Type: application/json'"];
    if (key()) lines.push('-H "Authorization: Bearer $QUERN_API_KEY"');
    lines.push(`-d ${quote(JSON.stringify(body))}`);
    return lines.join(" \\\n  ");
}
