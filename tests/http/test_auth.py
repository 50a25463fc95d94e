"""API keys: who may do what, with and without; reload."""
import os
import signal
import time

import pytest
import requests

from conftest import check_error

pytestmark = pytest.mark.tsan

OPEN = ["/livez", "/readyz", "/healthz", "/health", "/"]
KEYED = [("GET", "/v1/models"), ("GET", "/v1/models/stub"), ("GET", "/v1/structures"), ("GET", "/openapi.json"),
         ("POST", "/v1/infer"), ("POST", "/tokenize"), ("POST", "/detokenize"), ("GET", "/tokenizer_info"), ("GET", "/nope"), ("PUT", "/livez/x"),
         ("OPTIONS", "/v1/infer"), ("DELETE", "/v1/models")]
KEY, KEY2 = "sk-first-key-12345", "sk-second-key-67890"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    from conftest import Server
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# keys of the test\n\n{KEY}\n  {KEY2}  \n")
    s = Server("--api-key-file", path)
    s.key_file = path
    yield s
    s.stop()


@pytest.mark.parametrize("path", OPEN + ["/metrics"])
def test_open_without_key(keyed, path):
    assert keyed.get(path).status_code == 200


@pytest.mark.parametrize("method,path", KEYED)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong-key-1234"}, {"x-api-key": KEY + "x"},
                                     {"x-api-key": KEY[:-1]}, {"Authorization": KEY}, {"Authorization": "Basic " + KEY},
                                     {"Authorization": "Bearer"}, {"Authorization": "Bearer "},
                                     {"Authorization": "Bearer wrong-key-1234", "x-api-key": KEY}])
def test_keyed_routes_refuse(keyed, method, path, headers):
    r = requests.request(method, keyed.url + path, headers=headers, timeout=10)
    check_error(r, 401, "invalid_api_key")
    assert r.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer " + KEY}, {"Authorization": "bearer " + KEY2},
                                     {"x-api-key": KEY}, {"x-api-key": KEY2}])
def test_right_keys(keyed, headers):
    assert keyed.get("/v1/models", headers=headers).status_code == 200
    assert keyed.get("/nope", headers=headers).status_code == 404
    r = requests.post(keyed.url + "/v1/infer", json={"sequence": "a", "max_tokens": 1}, headers=headers, timeout=20)
    assert r.status_code == 200, r.text


def test_preflight_needs_no_key_and_tells_nothing(keyed):
    ask = {"Origin": "http://x", "Access-Control-Request-Method": "POST"}
    assert requests.options(keyed.url + "/v1/infer", headers=ask, timeout=10).status_code == 204
    assert requests.options(keyed.url + "/nope", headers=ask, timeout=10).status_code == 204


def test_metrics_auth(start, tmp_path):
    path = tmp_path / "keys"
    path.write_text(KEY + "\n")
    s = start("--api-key-file", path, "--metrics-auth", "on")
    check_error(s.get("/metrics"), 401, "invalid_api_key")
    assert s.get("/metrics", headers={"x-api-key": KEY}).status_code == 200
    assert s.get("/livez").status_code == 200


def test_refused_body_is_read_so_that_the_client_sees_401(keyed):
    r = requests.post(keyed.url + "/v1/infer", data=b"x" * 3_000_000, timeout=20)
    check_error(r, 401)


def test_reload_on_sighup(start, tmp_path):
    path = tmp_path / "keys"
    path.write_text(KEY + "\n")
    s = start("--api-key-file", path)
    path.write_text(KEY2 + "\n")
    assert s.get("/v1/models", headers={"x-api-key": KEY}).status_code == 200
    s.signal(signal.SIGHUP)
    s.wait_line("1 API keys read again")
    assert s.get("/v1/models", headers={"x-api-key": KEY}).status_code == 401
    assert s.get("/v1/models", headers={"x-api-key": KEY2}).status_code == 200
    os.unlink(path)
    s.signal(signal.SIGHUP)
    s.wait_line("API keys stay as they were")
    assert s.get("/v1/models", headers={"x-api-key": KEY2}).status_code == 200


@pytest.mark.parametrize("content", ["", "# nothing\n", "short\n", "has blank inside\n", "x" * 600 + "\n",
                                     "sch\u00fctzend-key\n"])
def test_bad_key_files_stop_the_start(content, tmp_path):
    import subprocess
    from conftest import STUB
    path = tmp_path / "keys"
    path.write_text(content, encoding="utf-8")
    p = subprocess.run([STUB, "--model", "stub", "--listen", "127.0.0.1:0", "--api-key-file", str(path)],
                       capture_output=True, timeout=60)
    assert p.returncode == 1 and b"API keys" in p.stderr, p.stderr


def test_one_key_does_not_see_the_other_keys_cache(keyed):
    prompt = "a prompt that fills several blocks of state, so that the prefix cache has something to keep: " * 2

    def cached(key):
        r = requests.post(keyed.url + "/v1/infer", json={"sequence": prompt, "max_tokens": 1},
                          headers={"x-api-key": key}, timeout=20)
        return r.json()["usage"]["cached_tokens"]

    assert cached(KEY) == 0
    assert cached(KEY) > 0
    assert cached(KEY2) == 0
    assert cached(KEY2) > 0


def test_keys_are_not_logged(keyed):
    keyed.get("/v1/models", headers={"x-api-key": KEY})
    time.sleep(0.1)
    assert KEY not in keyed.log() and KEY2 not in keyed.log()
