"""Hypothesis strategies for requests, made from the request schemas in /openapi.json: requests that fit their schema,
and the same with one thing wrong. Used by test_schema.py.

Names, structures and lengths are drawn from what the server under test has (HINTS), so that many requests run; counts
are kept small (SMALL), so that they run quickly.
"""
import copy
import json
import math

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

SMALL = {"max_tokens": 6, "max_completion_tokens": 6, "n": 3, "best_of": 3, "repeats": 2, "logprobs": 20}
ALWAYS = ("max_tokens", "repeats")  # their defaults would take long
LONGEST = 3  # items of an array of structures, texts or messages

ATTENTION = ["mha", "gqa", "mqa", "linformer", "performer", {"type": "gqa", "kv_heads": 3}, "nope", {"type": "moe"},
             {"type": "performer", "features": 64, "seed": 7}, {"type": "linformer", "k": 16},
             {"type": "linformer", "causal": False}, {"type": "gqa", "kv_heads": 4}, {"type": "mha", "heads": None}]
FFN = ["swiglu", "gelu", "moe", {"type": "moe", "experts_per_token": 1}, {"type": "moe", "experts_per_token": 9}, "mqa"]
SHARING = ["none", "all", {"type": "groups", "count": 2}, {"type": "groups"}, "some"]
HINTS = {
    "model": ["grist", "grist", "grist@mqa+moe", "grist@performer", "grist@", "grist@nope", "nope", None],
    "attention": ATTENTION, "ffn": FFN, "sharing": SHARING,
    "timeout_ms": [0, 1, 60000, None],
    "response_format": [
        {"type": "text"}, {"type": "json_object"}, {"type": "yaml"}, {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {
            "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
            "additionalProperties": False}}},
        {"type": "json_schema", "json_schema": {"name": "b", "schema": {"type": "nonsense"}}}],
    "regex": ["[a-c]{1,4}", "(a|b)*c", "(", "a{1,100000}", "\\d+"],
}

TEXT = st.text(st.sampled_from("ab cdeR:\n\t'\"\\{}é\U0001f600\u2028"), max_size=24)
JUNK = [True, False, 0, 7, -1, 1.5, "x", "", [], {}, [[1]], {"a": 1}, [None], ["a", 2], -1.5e300]
NUMBERS = [-1, -2, 1.5, 1e300, -1e300, 2**31, 2**53 + 1, 2**63, 2**64, -2**63 - 1, 10**30, 10**400]


class Spec:
    """/openapi.json, with validators for what it names."""

    def __init__(self, doc):
        self.doc = doc
        self.made = {}
        self.posts = {p: m["post"]["requestBody"]["content"]["application/json"]["schema"]
                      for p, m in doc["paths"].items() if "requestBody" in m.get("post", {})}
        self.gets = [p for p, m in doc["paths"].items() if "get" in m]

    def resolve(self, node):
        while "$ref" in node:
            at = self.doc
            for key in node["$ref"].removeprefix("#/").split("/"):
                at = at[key.replace("~1", "/").replace("~0", "~")]
            node = at
        return node

    def validator(self, schema):
        key = json.dumps(schema, sort_keys=True)
        if key not in self.made:
            whole = {"allOf": [schema], "components": self.doc["components"]}
            self.made[key] = Draft202012Validator(whole)
        return self.made[key]

    def fits(self, schema, value):
        return self.validator(schema).is_valid(value)


def number(schema, name, whole):
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 1000))
    if whole:
        low = math.ceil(low) + (1 if "exclusiveMinimum" in schema else 0)
        small = min(high, SMALL.get(name, 300))
        if name in SMALL:
            return st.integers(low, max(low, small))
        return st.one_of(st.integers(low, max(low, small)), st.sampled_from([low, high]))
    return st.floats(low, high, exclude_min="exclusiveMinimum" in schema, allow_nan=False, width=32)


@st.composite
def thing(draw, spec, schema, name=""):
    """A value that fits the schema, as far as keywords that the server's schemas use say."""
    schema = spec.resolve(schema)
    if name in HINTS and draw(st.integers(0, 9)):
        return copy.deepcopy(draw(st.sampled_from(HINTS[name])))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return draw(thing(spec, draw(st.sampled_from(schema[word])), name))
    if "allOf" in schema:
        return draw(thing(spec, schema["allOf"][0], name))
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    kinds = schema.get("type", "object" if "properties" in schema else ["string", "boolean", "null", "integer"])
    kind = kinds if isinstance(kinds, str) else draw(st.sampled_from(kinds[:1] * 4 + kinds))
    if kind == "object":
        return draw(record(spec, schema))
    if kind == "array":
        items = schema.get("items", {})
        most = min(schema.get("maxItems", 1000), 12 if spec.resolve(items).get("type") == "integer" else LONGEST)
        return draw(st.lists(thing(spec, items, name), min_size=schema.get("minItems", 0), max_size=most))
    if kind in ("integer", "number"):
        return draw(number(schema, name, kind == "integer"))
    if kind == "boolean":
        return draw(st.booleans())
    if kind == "null":
        return None
    if "pattern" in schema:
        return draw(st.from_regex(schema["pattern"], fullmatch=True))
    text = draw(TEXT)[:schema.get("maxLength", 100)]
    return text if len(text) >= schema.get("minLength", 0) else "ROMEO:"


@st.composite
def record(draw, spec, schema):
    schema = spec.resolve(schema)
    fields = schema.get("properties", {})
    must = schema.get("required", [])
    may = [f for f in fields if f not in must]
    names = must + [f for f in may if f in ALWAYS] if len(fields) > 4 else list(must)
    some = draw(st.lists(st.sampled_from(may), max_size=4, unique=True)) if may else []
    names += [f for f in some if f not in names]
    got = {f: draw(thing(spec, fields[f], f)) for f in names if f in fields}
    if not fields and schema.get("additionalProperties", True) is not False:
        got = draw(st.dictionaries(st.sampled_from(["a", "b", "type"]), st.sampled_from(JUNK), max_size=2))
    for f in ALWAYS:  # null is the default
        if f in got and got[f] is None:
            got[f] = 1
    return got


def deep(levels, brackets):
    return brackets[0] * levels + brackets[1] * levels


def paths_into(value, at=()):
    """Every place in a JSON value, as tuples of keys."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_into(inner, at + (key,))


def put(value, at, new):
    if not at:
        return new
    value[at[0]] = put(value[at[0]], at[1:], new)
    return value


@st.composite
def broken(draw, spec, schema, good):
    """(bytes, kind, field at fault or None): a good request with one thing wrong."""
    schema = spec.resolve(schema)
    fields = schema["properties"]
    kind = draw(st.sampled_from(["type", "type", "range", "unknown", "missing", "inner", "inner", "deep", "literal",
                                 "truncated", "utf8", "twice", "raw"]))
    body = copy.deepcopy(good)
    field = draw(st.sampled_from(sorted(fields)))
    raw = None
    if kind == "type":
        body[field] = draw(st.sampled_from(JUNK))
    elif kind == "range":
        numeric = [f for f in sorted(fields) if "minimum" in fields[f] or "exclusiveMinimum" in fields[f]]
        field = draw(st.sampled_from(numeric or sorted(fields)))
        body[field] = draw(st.sampled_from(NUMBERS + [fields[field].get("maximum", 0) + 1]))
    elif kind == "unknown":
        field = draw(st.sampled_from(["x", "", "modell", "max_token", "Stream", "é", "a" * 300, "__proto__",
                                      field[::-1]]))
        body[field] = draw(st.sampled_from(JUNK))
    elif kind == "missing":
        field = draw(st.sampled_from(schema.get("required") or [field]))
        body.pop(field, None)
    elif kind == "inner":
        at = draw(st.sampled_from([p for p in paths_into(body) if p] or [(field,)]))
        field = at[0]
        body = put(body, at, draw(st.sampled_from(JUNK + NUMBERS + [None]))) if field in body else body
    elif kind in ("deep", "literal"):
        body[field] = "\0mark"
        new = draw(st.sampled_from([deep(40, "[]"), deep(5000, "[]"), '{"a":' * 200 + "1" + "}" * 200])
                   if kind == "deep" else st.sampled_from(["1e999", "-1e999", "9" * 400, "1e-400", "NaN", "01", "1.",
                                                           '"\\ud800"', '"\\u0000"', "tru", "'x'"]))
        raw = json.dumps(body).replace(json.dumps("\0mark"), new).encode()
    elif kind == "truncated":
        whole = json.dumps(body, ensure_ascii=draw(st.booleans())).encode()
        raw = whole[:draw(st.integers(0, len(whole) - 1))]
    elif kind == "utf8":
        whole = json.dumps(body).encode()
        at = draw(st.integers(0, len(whole)))
        bad = draw(st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\0"]))
        raw = whole[:at] + bad + whole[at:]
    elif kind == "twice":
        whole = json.dumps(body)
        raw = ("{" + json.dumps(field) + ":" + json.dumps(draw(st.sampled_from(JUNK))) + ("," if body else "")
               + whole[1:]).encode()
    else:
        raw = draw(st.sampled_from([b"", b" ", b"null", b"[]", b'"x"', b"1", b"\xef\xbb\xbf{}", b"{}{}", b"{},", b"{",
                                    b"[" * 70000, b"{}" + b" " * 9000 + b"x"]))
    if raw is None:
        raw = json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    return raw, kind, field


@st.composite
def request(draw, spec):
    """{"method", "path" (as in the document), "url", "body" (bytes or None), "kind", "field", "only": nothing but that
    field is wrong by the schema}"""
    which = draw(st.integers(0, 19))
    if which == 0:
        path = draw(st.sampled_from(spec.gets))
        name = draw(st.sampled_from(["grist", "nope", "grist%40mqa%2Bmoe", "a%2Fb", "%00", "%zz", "x" * 200]))
        query = draw(st.sampled_from(["", "", "?a=1", "?" + "q" * 500]))
        return {"method": "GET", "path": path, "url": path.replace("{id}", name) + query, "body": None, "kind": "get",
                "field": None, "only": False}
    if which == 1:
        path = draw(st.sampled_from(sorted(spec.doc["paths"])))
        method = draw(st.sampled_from(["PUT", "DELETE", "PATCH", "POST", "GET"]))
        return {"method": method, "path": path, "url": path, "body": b"{}" if method != "GET" else None,
                "kind": "method", "field": None, "only": False}
    path = draw(st.sampled_from(sorted(spec.posts)))
    body = draw(record(spec, spec.posts[path]))
    if draw(st.integers(0, 99)) < 45:
        raw, kind, field = json.dumps(body).encode("utf-8", "surrogatepass"), "good", None
    else:
        raw, kind, field = draw(broken(spec, spec.posts[path], body))
    return {"method": "POST", "path": path, "url": path, "body": raw, "kind": kind, "field": field,
            "only": spec.fits(spec.posts[path], body)}
