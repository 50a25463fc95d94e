"""The page in a real browser: Debian's Chromium, driven by Playwright, against the real server with grist.

Every page must end without console errors, without violations of its policy, and without a request to another host.
QUERN_SCREENSHOTS=docs writes the pictures of the README again.
"""
import json
import os
import re
import shutil
import subprocess
import threading

import pytest

from conftest import FLAVOUR, REAL, ROOT, Server

if FLAVOUR != "release":
    pytest.skip("the browser runs against the release build only", allow_module_level=True)

from playwright.sync_api import expect, sync_playwright  # noqa: E402

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync"]
KEY = "sk-browser-key-12345"
PATIENCE = 60_000  # ms until something must have happened; not a measurement
GQA, MQA, PERFORMER = "gqa+swiglu+none", "mqa+moe+none", "performer+swiglu+none"
COLORS = {"light": ["#0072b2", "#c96a00", "#007a5a", "#b0518a"], "dark": ["#56b4e9", "#f0a83c", "#2cc295", "#e08fc0"]}

# Runs before the page's own scripts: what the policy refused, and how the texts grew.
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (e) => window.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
window.grown = [];
addEventListener("DOMContentLoaded", () => {
    new MutationObserver(() => {
        document.querySelectorAll("#texts .made").forEach((made, i) => {
            const seen = (window.grown[i] ||= []), rate = made.closest("article").querySelector(".rate").textContent;
            if (!seen.length || seen.at(-1).text !== made.textContent) seen.push({ text: made.textContent, rate });
        });
    }).observe(document.getElementById("texts"), { childList: true, subtree: true, characterData: true });
});
"""


@pytest.fixture(scope="module")
def grist():
    s = Server(binary=REAL, model=None)
    yield s
    s.stop()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(KEY + "\n")
    s = Server("--api-key-file", path, binary=REAL, model=None)
    yield s
    s.stop()


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium")
    assert path, "no chromium: tools/deps.sh test installs it"
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, headless=True, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """visit(server, hash, refused={status…}, **context) -> a page; checked at the end."""
    opened = []

    def go(server, address="", refused=(), ready=True, **context):
        context.setdefault("viewport", {"width": 1200, "height": 900})
        c = chromium.new_context(**context)
        c.set_default_timeout(PATIENCE)
        page = c.new_page()
        seen = {"page": page, "url": server.url, "refused": set(refused), "requests": [], "complaints": []}
        c.on("request", lambda r: seen["requests"].append(r))
        page.on("console", lambda m: seen["complaints"].append(m.text) if m.type in ("error", "warning") and not m.text.startswith("Canvas2D") else None)
        # (Canvas2D's advice is about this file, which reads charts back.)
        page.on("pageerror", lambda e: seen["complaints"].append(str(e)))
        page.add_init_script(WATCH)
        opened.append((c, seen))
        page.goto(server.url + "/" + address)
        page.seen = seen
        if ready:
            expect(page.locator("#go")).to_be_enabled(timeout=PATIENCE)
        return page

    yield go
    for c, seen in opened:
        assert seen["page"].evaluate("window.violations") == []
        allowed = [f"status of {s}" for s in seen["refused"]] + (["ERR_"] if "away" in seen["refused"] else [])
        complaints = [t for t in seen["complaints"] if not any(a in t for a in allowed)]
        assert complaints == []
        assert all(r.url.startswith(seen["url"] + "/") for r in seen["requests"]), [r.url for r in seen["requests"]]
        c.close()


def picks(*structures):
    return "".join("&s=" + s.replace("+", "%2B") for s in structures)


def done(page, text="Done"):
    expect(page.locator("#progress")).to_have_text(text, timeout=PATIENCE)


def chart(page, canvas):
    """What Chart.js holds for a canvas, and what was really painted: pixels by colour."""
    return page.evaluate("""(id) => {
        const canvas = document.getElementById(id), c = Chart.getChart(canvas);
        if (!c) return null;
        const p = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data, colors = {};
        for (let i = 0; i < p.length; i += 4) {
            if (p[i + 3] !== 255) continue;
            const name = "#" + [p[i], p[i + 1], p[i + 2]].map((v) => v.toString(16).padStart(2, "0")).join("");
            colors[name] = (colors[name] || 0) + 1;
        }
        return { type: c.config.type, label: canvas.getAttribute("aria-label"), labels: c.data.labels, colors,
                 sets: c.data.datasets.map((d) => ({ label: d.label, data: d.data, formula: Boolean(d.formula) })) };
    }""", canvas)


def compare(server, **body):
    r = server.post("/v1/compare", {"sequence": "ROMEO:\n", "max_tokens": 200, "repeats": 1, **body})
    assert r.status_code == 200, r.text
    return r.json()


def no_sideways(page):
    return page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")


def shoot(page, name):
    where = os.environ.get("QUERN_SCREENSHOTS")
    if not where:
        return
    page.evaluate("document.activeElement.blur()")
    path = os.path.join(ROOT, where, name)
    page.screenshot(path=path, full_page=True)
    assert os.path.getsize(path) < 200_000, f"{path} is {os.path.getsize(path)} bytes"


# ---- the three views ----

def test_two_structures_run_side_by_side(grist, visit):
    page = visit(grist, "#run?n=800&r=3" + picks(GQA, PERFORMER))
    page.click("#go")
    done(page)
    grown = page.evaluate("window.grown")
    assert len(grown) == 2
    for seen in grown:
        texts = [s["text"] for s in seen if s["text"]]
        assert len(texts) >= 3, "the text did not appear bit by bit"
        assert all(b.startswith(a) for a, b in zip(texts, texts[1:])) and len(texts[-1]) > len(texts[0])
        assert any(re.fullmatch(r"[\d,]+ tokens · [\d,.]+ tokens/s", s["rate"]) for s in seen[:-1])
    for i, (attention, spec) in enumerate((("gqa", GQA), ("performer", PERFORMER))):
        card = page.locator("#texts article").nth(i)
        alone = grist.infer(sequence="ROMEO:\n", max_tokens=800, attention=attention).json()
        assert card.locator(".made").text_content() == alone["outputs"][0]["text"]
        assert card.locator(".name").text_content() == spec.replace("+none", "")
        expect(card.locator(".rate")).to_have_text(re.compile(r"^800 tokens · [\d,]+ tokens/s$"))
        expect(card.locator(".chip")).to_have_text("native")
        assert card.get_attribute("aria-busy") == "false"


def test_charts_and_table_show_what_was_measured(grist, visit):
    page = visit(grist, "#run?n=200&r=3" + picks(GQA, PERFORMER))
    assert chart(page, "chart-phases") is None
    page.click("#go")
    done(page)
    want = compare(grist, structures=[{"attention": "gqa"}, {"attention": "performer"}])["results"]

    phases = chart(page, "chart-phases")
    assert phases["type"] == "bar" and phases["labels"] == ["queue", "tokenize", "convert", "prefill", "decode", "finish"]
    assert [s["label"] for s in phases["sets"]] == ["gqa+swiglu", "performer+swiglu"]
    assert all(s["data"][3] > 0 and s["data"][4] > s["data"][3] for s in phases["sets"])

    state = chart(page, "chart-state")
    points = {s["label"]: s["data"] for s in state["sets"] if not s["formula"]}
    lines = {s["label"].split(",")[0]: s["data"] for s in state["sets"] if s["formula"]}
    for (name, at), result in zip(points.items(), want):
        assert at == [{"x": 208, "y": result["memory"]["state_bytes"]}] # "ROMEO:\n" is 8 tokens
    assert lines["gqa+swiglu"][-1] == {"x": 256, "y": 256 * 1536} and lines["gqa+swiglu"][0]["y"] == 0
    assert {p["y"] for p in lines["performer+swiglu"]} == {want[1]["memory"]["state_bytes"]}

    for shown in (phases, state):
        for color in COLORS["light"][:2]:
            assert shown["colors"].get(color, 0) > 20, (color, shown["colors"])
        assert "gqa+swiglu" in shown["label"] and "nothing" not in shown["label"]

    rows = page.locator("#fidelity tbody tr")
    expect(rows).to_have_count(2)
    cells = [rows.nth(i).locator("th, td").all_inner_texts() for i in range(2)]
    assert cells[0][-3:] == ["0.0000", "1.000", "0.000"]
    f = want[1]["fidelity"]
    assert cells[1][-3:] == [f"{f['mean_kl']:.4f}", f"{f['top1_agreement']:.3f}", f"{f['bits_per_byte_delta']:.3f}"]
    assert [c[5] for c in cells] == ["312.0", "531.0"]
    for i in range(2): # one colour a structure, wherever it stands
        colors = {page.locator(s).nth(i).evaluate("(e) => getComputedStyle(e).backgroundColor")
                  for s in (".pick .swatch", ".card .swatch", "#fidelity .swatch")}
        assert len(colors) == 1


def test_sweep_draws_a_curve_for_each_structure(grist, visit):
    page = visit(grist, "#sweep?lengths=32%2C64%2C128&w=4&k=1" + picks(GQA, PERFORMER))
    page.click("#go")
    done(page)
    for canvas in ("chart-prefill", "chart-decode"):
        c = chart(page, canvas)
        assert [s["label"] for s in c["sets"]] == ["gqa+swiglu", "performer+swiglu"]
        for s in c["sets"]:
            assert [p["x"] for p in s["data"]] == [32, 64, 128] and all(p["y"] > 0 for p in s["data"])
        assert all(c["colors"].get(color, 0) > 20 for color in COLORS["light"][:2])
    state = [s for s in chart(page, "chart-memory")["sets"] if not s["formula"]]
    assert [p["x"] for p in state[0]["data"]] == [36, 68, 132]
    assert [p["y"] for p in state[0]["data"]] == [n * 1536 for n in (48, 80, 144)] # whole blocks of 16 tokens
    assert len({p["y"] for p in state[1]["data"]}) == 1
    rows = page.locator("#sweep-table tbody tr")
    expect(rows).to_have_count(3)
    assert rows.nth(2).locator("th, td").count() == 1 + 2 * 3


def test_server_view_follows_the_metrics(grist, visit):
    page = visit(grist, "#server")
    tiles = page.locator("#tiles .tile")
    expect(tiles).to_have_count(8)
    before = int(grist.wait_metric("quern_requests_total", lambda v: True))
    stop = threading.Event()

    def work():
        while not stop.is_set():
            grist.infer(sequence="ROMEO:\n", max_tokens=400, ignore_eos=True)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        expect(tiles.nth(2).locator("strong")).to_have_text(re.compile(r"^[1-9]"), timeout=PATIENCE)
        expect(tiles.nth(6).locator("strong")).not_to_have_text(f"{before:,}", timeout=PATIENCE)
    finally:
        stop.set()
        worker.join()
    for canvas, sets in (("chart-rate", ["generated", "prompts read"]), ("chart-load", ["running", "queued"]), ("chart-kv", ["used", "cached"])):
        c = chart(page, canvas)
        assert [s["label"] for s in c["sets"]] == sets and len(c["sets"][0]["data"]) >= 1
    assert max(p["y"] for p in chart(page, "chart-rate")["sets"][0]["data"]) > 0
    expect(page.locator("#models tbody th")).to_have_text(["grist"])
    page.click("#pause")
    page.wait_for_timeout(300) # what was under way
    count = len(page.seen["requests"])
    page.wait_for_timeout(1500)
    assert len(page.seen["requests"]) == count and page.get_attribute("#pause", "aria-pressed") == "true"
    page.click("#pause")
    with page.expect_request("**/metrics"):
        pass
    page.click("nav a[data-view=run]") # away: it stops asking
    expect(page.locator("#form")).to_be_visible()


# ---- errors, stopping ----

def test_the_servers_message_is_shown(grist, visit):
    page = visit(grist, "#run?n=5000" + picks(GQA), refused={400})
    page.click("#go")
    done(page, "Failed")
    message = grist.infer(sequence="ROMEO:\n", max_tokens=5000).json()["error"]["message"]
    shown = page.locator("#texts .error")
    expect(shown.locator("strong")).to_have_text(message)
    expect(shown.locator("small")).to_contain_text("400 · invalid_value · field max_tokens · req-")
    page.fill("#max-tokens", "8")
    page.click("#go")
    done(page)
    expect(page.locator(".error:visible")).to_have_count(0)


def test_a_refused_comparison_and_a_wrong_field(grist, visit):
    page = visit(grist, "#sweep?lengths=32%2C5000&w=4&k=1" + picks(GQA), refused={400})
    page.click("#go")
    done(page, "Failed")
    expect(page.locator("#trouble strong")).to_contain_text("more than 1087 tokens")
    expect(page.locator("#trouble small")).to_contain_text("400 · context_length_exceeded")
    assert len(chart(page, "chart-prefill")["sets"][0]["data"]) == 1 # the length that went well stays
    page.fill("#lengths", "12, many")
    page.click("#go")
    expect(page.locator("#trouble")).to_contain_text("whole numbers")
    assert page.evaluate("document.activeElement.id") == "lengths"


def test_conversions_need_leave(grist, visit):
    page = visit(grist, "#run?n=8&r=1" + picks("linformer(k=32)+swiglu+none"), refused={400})
    page.click("#go")
    done(page, "Failed")
    expect(page.locator("#texts .error")).to_contain_text('set "convert": true to run it')
    page.check("#convert")
    page.click("#go")
    done(page)
    expect(page.locator(".chip")).to_have_text("converted, untrained")
    expect(page.locator("#fidelity tbody td").first).to_have_text("untrained")
    assert [s["formula"] for s in chart(page, "chart-state")["sets"]] == [False] # the server gives no formula for this k
    assert "c=1" in page.url


def test_stop_frees_the_server(grist, visit):
    page = visit(grist, "#run?n=1000&r=50" + picks(GQA, MQA, PERFORMER, "linformer+swiglu+none"))
    page.click("#go")
    expect(page.locator("#go")).to_have_text("Stop")
    expect(page.locator("#progress")).to_contain_text("Measuring: run", timeout=PATIENCE)
    page.click("#go")
    done(page, "Stopped")
    grist.wait_metric("quern_running", lambda v: v == 0)
    grist.wait_metric("quern_queue_depth", lambda v: v == 0)
    expect(page.locator("#go")).to_have_text("Run")
    expect(page.locator("#trouble")).to_be_hidden()


def test_a_server_that_is_still_loading(grist, visit):
    """It says so, and begins by itself when the models are there."""
    page = visit(grist, "#server", refused={503})
    answers = []

    def answer(route):
        answers.append(1)
        if len(answers) > 1:
            route.continue_()
            return
        body = {"error": {"message": "the model is still loading", "type": "server_error", "param": None, "code": "loading"}}
        route.fulfill(status=503, headers={"Retry-After": "1"}, json=body)

    page.route("**/v1/models", answer)
    page.goto(grist.url + "/#run?n=4")
    page.reload()
    expect(page.locator("#trouble strong")).to_have_text("the model is still loading")
    expect(page.locator("#go")).to_be_disabled()
    expect(page.locator("#go")).to_be_enabled()
    expect(page.locator("#trouble")).to_be_hidden()
    assert len(answers) == 2 and page.input_value("#max-tokens") == "4"


def test_a_server_that_is_away(grist, visit):
    page = visit(grist, "#run?n=4&r=1" + picks(GQA), refused={"away"})
    page.context.set_offline(True)
    page.click("#go")
    done(page, "Failed")
    expect(page.locator("#texts .error")).to_contain_text("can't be reached")


# ---- keys, addresses, commands ----

def test_api_key(keyed, visit):
    page = visit(keyed, "#run?n=8&r=1" + picks(GQA), refused={401}, ready=False)
    expect(page.locator("#trouble strong")).to_contain_text("an API key is needed")
    expect(page.locator("#key")).to_be_focused()
    expect(page.locator("#go")).to_be_disabled()
    page.keyboard.type("sk-wrong-key-99")
    page.keyboard.press("Enter")
    page.wait_for_timeout(200)
    expect(page.locator("#trouble strong")).to_contain_text("an API key is needed")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#go")).to_be_enabled()
    expect(page.locator("#trouble")).to_be_hidden()
    page.click("#go")
    done(page)
    assert KEY not in page.url
    assert page.evaluate("[JSON.stringify(localStorage), sessionStorage.getItem('quern-key')]") == ["{}", KEY]
    page.reload()
    expect(page.locator("#go")).to_be_enabled() # the tab remembers it
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("#trouble strong")).to_contain_text("an API key is needed") # no other one does
    other.close()


def test_the_address_holds_the_form(grist, visit):
    page = visit(grist, "")
    page.select_option("#s0-attention", "mha")
    page.click("#s1-attention")
    page.keyboard.press("Escape")
    page.locator(".pick.s1 summary").click()
    page.click(".pick.s1 button")
    page.click("#add")
    page.select_option("#s1-attention", "gqa")
    page.select_option("#s1-ffn", "moe")
    page.locator(".pick.s1 summary").click()
    page.fill("#p1-attention-kv_heads", "1")
    page.fill("#sequence", "O, what's “here”? & 1+1=2 #\nline two")
    page.click("nav a[data-view=sweep]")
    page.fill("#lengths", "16, 24")
    page.fill("#sweep-tokens", "3")
    page.keyboard.press("Tab")
    address = page.url
    assert "#sweep?" in address

    again = visit(grist, address[len(grist.url) + 1:])
    assert again.url == address
    assert again.input_value("#sequence") == "O, what's “here”? & 1+1=2 #\nline two"
    assert again.input_value("#lengths") == "16, 24" and again.input_value("#sweep-tokens") == "3"
    assert [again.input_value(f"#s{i}-attention") for i in (0, 1)] == ["mha", "gqa"]
    assert again.input_value("#s1-ffn") == "moe" and again.input_value("#p1-attention-kv_heads") == "1"
    expect(again.locator("#view-sweep")).to_be_visible()
    with again.expect_request("**/v1/compare") as asked:
        again.click("#go")
    body = json.loads(asked.value.post_data)
    assert body["structures"] == [{"attention": "mha", "ffn": "swiglu", "sharing": "none"},
                                  {"attention": {"type": "gqa", "kv_heads": 1}, "ffn": "moe", "sharing": "none"}]
    assert len(body["sequence"]) == 16 and body["max_tokens"] == 3
    done(again)


def test_a_long_sequence_stays_out_of_the_address(grist, visit):
    page = visit(grist, "")
    page.fill("#sequence", "x" * 5000)
    page.click("nav a[data-view=sweep]")
    page.click("nav a[data-view=run]")
    assert page.input_value("#sequence") == "x" * 5000 and len(page.url) < 1000


@pytest.mark.parametrize("address", ["#nowhere?s=&n=&m=none", "#run?s=%2B%2B&s=nope%2Bnope%2Bnope&n=x", "#?", "#run?s=gqa(%2Bmoe"])
def test_odd_addresses_do_no_harm(grist, visit, address):
    page = visit(grist, address, refused={400})
    expect(page.locator("#picks li").first).to_be_visible()
    page.click("#go")
    expect(page.locator("#progress")).not_to_have_text("", timeout=PATIENCE)


def test_copied_commands_run(keyed, visit):
    page = visit(keyed, "#run?n=6&r=1&q=It%27s%20%22so%22%20%24HOME%20%60x%60%20%5Cn" + picks(GQA, MQA), refused={401},
                 ready=False, permissions=["clipboard-read", "clipboard-write"])
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#go")).to_be_enabled()
    page.click("#copy-curl")
    expect(page.locator("#progress")).to_have_text("Command copied")
    whole = page.evaluate("navigator.clipboard.readText()")
    page.click("#go")
    done(page)
    page.locator(".card .copy").nth(1).click()
    expect(page.locator("#progress")).to_have_text("Command copied")
    one = page.evaluate("navigator.clipboard.readText()")
    for command in (whole, one):
        assert KEY not in command and command.startswith("curl ")
    env = {"PATH": os.environ["PATH"], "QUERN_API_KEY": KEY}
    out = subprocess.run(["bash", "-c", whole], env=env, capture_output=True, timeout=60, check=True).stdout
    assert [r["structure"]["attention"]["type"] for r in json.loads(out)["results"]] == ["gqa", "mqa"]
    out = subprocess.run(["bash", "-c", one], env=env, capture_output=True, timeout=60, check=True).stdout.decode()
    final = json.loads([l for l in out.splitlines() if l.startswith("data: {")][-1][6:])
    assert final["outputs"][0]["text"] == page.locator("#texts .made").nth(1).text_content()


# ---- keyboard, theme, width ----

def test_keyboard_alone(grist, visit):
    page = visit(grist, "#run?n=8&r=1" + picks(GQA, PERFORMER))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "s0-attention"
    page.keyboard.press("ArrowDown")
    expect(page.locator("#s0-attention")).to_have_value("mqa")
    stops = []
    while not stops or stops[-1]["id"] != "sequence":
        page.keyboard.press("Tab")
        stops.append(page.evaluate("""() => {
            const e = document.activeElement, s = getComputedStyle(e);
            return { id: e.id || e.textContent, name: e.labels?.[0]?.textContent || e.getAttribute("aria-label") || e.textContent,
                     ring: s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 };
        }"""))
        assert len(stops) < 40, stops
    assert all(s["name"].strip() and s["ring"] for s in stops), stops
    ids = [s["id"] for s in stops]
    assert ids.index("s0-ffn") < ids.index("s0-sharing") < ids.index("s1-attention") < ids.index("add") < ids.index("model") < ids.index("sequence")
    page.keyboard.press("Control+A")
    page.keyboard.type("JULIET:\n")
    page.keyboard.press("Control+Enter")
    done(page)
    assert page.input_value("#sequence") == "JULIET:\n" # Ctrl+Enter ran it and typed nothing
    assert page.locator("#texts .prompt").first.text_content() == "JULIET:\n"
    assert page.evaluate("document.activeElement.id") == "sequence"
    assert "Measured" in page.locator("#status").text_content()
    assert page.get_attribute("#status", "aria-live") == "polite"
    unnamed = page.evaluate("""() => [...document.querySelectorAll("input, select, textarea, button, canvas")].filter((e) =>
        !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim())).map((e) => e.outerHTML)""")
    assert unnamed == []


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_and_light(grist, visit):
    page = visit(grist, "#run?n=16&r=1" + picks(GQA, MQA), color_scheme="dark")
    page.click("#go")
    done(page)
    dark = background(page)
    assert all(chart(page, "chart-state")["colors"].get(c, 0) > 20 for c in COLORS["dark"][:2])
    page.select_option("#theme", "light")
    light = background(page)
    assert light != dark
    colors = chart(page, "chart-state")["colors"]
    assert all(colors.get(c, 0) > 20 for c in COLORS["light"][:2]) and not any(c in colors for c in COLORS["dark"][:2])
    page.reload()
    assert background(page) == light and page.input_value("#theme") == "light"
    page.select_option("#theme", "auto")
    assert background(page) == dark
    page.emulate_media(color_scheme="light")
    assert background(page) == light


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out(grist, visit, theme):
    """Contrast of WCAG 2: 4.5 for text, 3 for the lines of the charts and the borders of fields."""
    page = visit(grist, "", color_scheme=theme)
    names = ["bg", "panel", "text", "muted", "accent", "on-accent", "error", "error-bg", "field", "s0", "s1", "s2", "s3", "on-s", "tip", "tip-text", "grid"]
    values = page.evaluate("(names) => names.map((n) => getComputedStyle(document.documentElement).getPropertyValue(`--${n}`).trim())", names)

    def luminance(c):
        parts = [int(c[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(w * (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for w, v in zip((0.2126, 0.7152, 0.0722), parts))

    of = {n: luminance(v) for n, v in zip(names, values)}

    def contrast(a, b):
        high, low = max(of[a], of[b]), min(of[a], of[b])
        return (high + 0.05) / (low + 0.05)

    texts = [("text", "bg"), ("text", "panel"), ("text", "grid"), ("muted", "bg"), ("muted", "panel"), ("accent", "panel"), ("on-accent", "accent"),
             ("error", "error-bg"), ("tip-text", "tip")]
    for a, b in texts:
        assert contrast(a, b) >= 4.5, (a, b, contrast(a, b))
    for a, b in [("field", "panel")] + [(f"s{i}", "panel") for i in range(4)] + [("on-s", f"s{i}") for i in range(4)]:
        assert contrast(a, b) >= 3, (a, b, contrast(a, b))


@pytest.mark.parametrize("width", [400, 320])
def test_narrow_windows_never_scroll_sideways(grist, visit, width):
    page = visit(grist, "#run?n=60&r=1" + picks(GQA, PERFORMER, MQA, "linformer(k=64)+gelu+all"), viewport={"width": width, "height": 800})
    for view in ("run", "sweep", "server"):
        page.click(f"nav a[data-view={view}]")
        if view == "sweep":
            page.fill("#lengths", "32, 64")
        if view != "server":
            page.click("#go")
            done(page)
        else:
            expect(page.locator("#tiles .tile")).to_have_count(8)
        whole, window = no_sideways(page)
        assert whole <= window, view
        outside = page.evaluate("""() => [...document.querySelectorAll("main :is(button, input, select, textarea, canvas, article, h2)")].filter((e) => {
            const r = e.getBoundingClientRect();
            return r.width && (r.left < 0 || r.right > innerWidth);
        }).map((e) => e.outerHTML.slice(0, 100))""")
        assert outside == []
    page.click("nav a[data-view=run]")
    expect(page.locator("#chart-phases")).to_be_visible()
    narrow = page.get_attribute("#chart-phases", "width")
    page.set_viewport_size({"width": 1200, "height": 800}) # and back: the charts follow
    expect(page.locator("#chart-phases")).not_to_have_attribute("width", narrow)
    assert page.evaluate("document.getElementById('chart-phases').getBoundingClientRect().width") > 400


def test_nothing_jumps_while_texts_come(grist, visit):
    page = visit(grist, "#run?n=300&r=2" + picks(GQA, PERFORMER))
    page.click("#go")
    done(page)
    tops = "() => ['measured', 'chart-phases', 'fidelity'].map((id) => document.getElementById(id).getBoundingClientRect().top + scrollY)"
    first = page.evaluate(tops)
    page.evaluate("""() => {
        window.moved = [];
        new PerformanceObserver((list) => list.getEntries().forEach((e) => { if (!e.hadRecentInput) window.moved.push(e.value); })).observe({ type: "layout-shift", buffered: false });
    }""")
    page.wait_for_timeout(600) # input counts as recent for half a second
    page.focus("#sequence")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#progress")).not_to_have_text("Done")
    done(page)
    assert page.evaluate(tops) == first
    assert sum(page.evaluate("window.moved")) < 0.02


def test_pictures(grist, visit):
    """A picture of each view for docs/; without QUERN_SCREENSHOTS only that the views can follow each other."""
    pictures = bool(os.environ.get("QUERN_SCREENSHOTS"))
    page = visit(grist, ("#run?n=200" if pictures else "#run?n=20&r=1&lengths=16&k=1") + picks(GQA, PERFORMER), viewport={"width": 1060, "height": 800})
    page.click("#go")
    done(page)
    shoot(page, "page-run.png")
    page.click("nav a[data-view=sweep]")
    page.click("#add")
    page.click("#go")
    done(page)
    shoot(page, "page-sweep.png")
    page.click("nav a[data-view=server]")
    expect(page.locator("#tiles .tile")).to_have_count(8)
    if not pictures:
        return
    stop = threading.Event()

    def work(k):
        n = 0
        while not stop.wait(0.2 + 0.3 * k):
            n += 1
            grist.infer(sequence=f"{k} {n} ROMEO:\n", max_tokens=300 + 200 * k, temperature=1, seed=n, ignore_eos=True)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for w in workers:
        w.start()
    page.wait_for_timeout(30_000)
    shoot(page, "page-server.png")
    stop.set()
    for w in workers:
        w.join()
