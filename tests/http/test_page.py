"""The page's files as HTTP serves them: who gets HTML, headers, tags, HEAD. What it does in a browser: test_page_browser.py."""
import os
import re

import pytest
import requests

from conftest import ROOT, check_error

pytestmark = pytest.mark.tsan

PAGE = os.path.join(ROOT, "server", "page")
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".svg": "image/svg+xml"}
FILES = sorted(os.listdir(PAGE))
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
          "form-action 'none'; frame-ancestors 'none'")


def read(name):
    with open(os.path.join(PAGE, name), "rb") as f:
        return f.read()


def check_headers(r, name):
    assert r.headers["content-type"] == TYPES[os.path.splitext(name)[1]]
    assert r.headers["content-security-policy"] == POLICY
    assert r.headers["x-content-type-options"] == "nosniff"
    assert r.headers["referrer-policy"] == "no-referrer"
    assert r.headers["cache-control"] == "no-cache"
    assert re.fullmatch(r'"[0-9a-f]{16}"', r.headers["etag"])


def test_browsers_get_html_and_others_text(srv):
    r = srv.get("/", headers=BROWSER)
    assert r.status_code == 200 and r.content == read("index.html") and r.headers["vary"] == "Accept"
    check_headers(r, "index.html")
    for accept in ("*/*", "text/plain", "application/json", ""):
        r = srv.get("/", headers={"Accept": accept})
        assert r.headers["content-type"] == "text/plain; charset=utf-8" and "POST /v1/infer" in r.text
        assert r.headers["vary"] == "Accept" and "etag" not in r.headers


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served(srv, name):
    r = srv.get("/page/" + name)
    assert r.status_code == 200 and r.content == read(name)
    check_headers(r, name)
    head = requests.head(srv.url + "/page/" + name, timeout=20)
    assert head.status_code == 200 and head.content == b""
    assert head.headers["content-length"] == str(len(r.content))
    check_headers(head, name)


def test_chart_js_is_the_one_of_the_package(srv):
    r = srv.get("/page/chart.min.js")
    with open("/usr/share/javascript/chart.js/chart.min.js", "rb") as f:
        assert r.content == f.read()
    check_headers(r, "chart.min.js")
    assert b"Released under the MIT License" in r.content[:300]


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/chart.min.js"])
def test_what_did_not_change_is_not_sent_again(srv, path):
    first = srv.get(path, headers=BROWSER)
    tag = first.headers["etag"]
    for given in (tag, f'"0000000000000000", {tag}', "W/" + tag, "*"):
        r = srv.get(path, headers={**BROWSER, "If-None-Match": given})
        assert r.status_code == 304 and r.content == b"" and r.headers["etag"] == tag
        assert r.headers["cache-control"] == "no-cache"
    for given in ('"0000000000000000"', tag[:-2], ""):
        r = srv.get(path, headers={**BROWSER, "If-None-Match": given})
        assert r.status_code == 200 and r.content == first.content


def test_not_modified_has_no_body_on_the_wire(srv):
    tag = srv.get("/page/app.js").headers["etag"].encode()
    ask = b"GET /page/app.js HTTP/1.1\r\nHost: t\r\nIf-None-Match: " + tag + b"\r\n"
    data, closed = srv.raw(ask + b"\r\n" + ask + b"Connection: close\r\n\r\n")
    assert closed and data.count(b"HTTP/1.1 304 ") == 2 and data.endswith(b"\r\n\r\n")
    assert set(re.findall(rb"Content-Length: (\d+)", data)) <= {str(len(read("app.js"))).encode()}


def test_tags_differ(srv):
    tags = {srv.get("/page/" + name).headers["etag"] for name in FILES}
    assert len(tags) == len(FILES)


@pytest.mark.parametrize("path", ["/page/nope.js", "/page/app.js/", "/page/..%2Froute.c", "/page/../route.c", "/page/%00", "/page/", "/page"])
def test_unknown_files(srv, path):
    with srv.connect() as s: # the client library would tidy the path
        s.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        data = b""
        while chunk := s.recv(65536):
            data += chunk
    assert data.startswith(b"HTTP/1.1 404 ") and b'"code":"not_found"' in data


def test_the_page_is_read_only(srv):
    for path in ("/page/app.js", "/"):
        r = requests.post(srv.url + path, data=b"x", timeout=20)
        check_error(r, 405, "method_not_allowed")


def test_everything_that_is_referred_to_is_there(srv):
    html = read("index.html").decode()
    named = set(re.findall(r'(?:src|href)="(page/[^"]+)"', html))
    for name in FILES:
        if name.endswith(".js"):
            named |= {"page/" + n for n in re.findall(r'from "\./([^"]+)"', read(name).decode())}
    assert named == {"page/" + n for n in FILES if n != "index.html"} | {"page/chart.min.js"}
    for path in named:
        assert srv.get("/" + path).status_code == 200, path


def test_nothing_that_the_policy_forbids(srv):
    html = read("index.html").decode()
    assert not re.search(r"\son[a-z]+=|\sstyle=|<style|javascript:", html)
    assert re.findall(r"<script[^>]*>([^<]*)</script>", html) == [""] * html.count("<script")
    for name in FILES:
        text = re.sub(r'xmlns="[^"]*"', "", read(name).decode())
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text), f"{name} names another host"


def test_page_needs_no_key(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("sk-page-key-12345\n")
    s = start("--api-key-file", keys)
    assert s.get("/", headers=BROWSER).content == read("index.html")
    for name in FILES + ["chart.min.js"]:
        assert s.get("/page/" + name).status_code == 200
    check_error(s.get("/page/nope"), 404, "not_found")
    check_error(s.get("/v1/models"), 401, "invalid_api_key")
