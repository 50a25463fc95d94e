#!/usr/bin/env python3
"""Expected token ids from Hugging Face tokenizers and SentencePiece, for tests/golden/tokenizers.

  tokenizers.py big OUT [--npm DIR] [--gguf FILE] [--count N]   real vocabularies, N texts each (not committed)
  tokenizers.py small OUT                                       tiny vocabularies trained here (committed)

Writes NAME.vocab and NAME.cases in the flat form that tests/support/vocab_fixture.h describes. Texts come
from a seeded generator (SEED), so two runs write the same files. Needs: tokenizers, sentencepiece, gguf.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import unicodedata

sys.path.pop(0)  # this file's folder: "import tokenizers" means the library, not this script
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SEED = 20240607
SPECIAL, ADDED, BYTE, UNUSED, LSTRIP, RSTRIP, UNKNOWN = 1, 2, 4, 8, 16, 32, 64
ADD_SPECIAL, PLAIN = 1, 2

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

# --- texts ------------------------------------------------------------------------------------------------

PHRASES = [
    "The quick brown fox jumps over the lazy dog.",
    "It's we're I'll you've he'd I'm can't",
    "IT'S WE'RE I'LL YOU'VE HE'D I'M CAN'T",
    "it'S We'rE i'Ll yOu'vE 'tis 'Twas rock'n'roll x's' ''s '\u017f a'\u017fb",
    "it\u2019s we\u2019re",
    "naïve façade coöperate über straße ŒUVRE",
    "Здравствуй, мир! Съешь ещё этих булок.",
    "Γειά σου Κόσμε",
    "שלום עולם",
    "مرحبا بالعالم كيف الحال؟",
    "नमस्ते दुनिया क्षत्रिय",
    "สวัสดีชาวโลก",
    "你好，世界！今天天气很好。",
    "こんにちは世界、カタカナとひらがな。",
    "안녕하세요 세계",
    "வணக்கம் உலகம்",
    "გამარჯობა",
    "Բարեւ",
    "ሰላም ልዑል",
    "ខ្មែរ",
    "မြန်မာ",
    "Tiếng Việt có dấu",
    "👨‍👩‍👧‍👦 family 👩🏽‍🚀 🏳️‍🌈 🇩🇪🇯🇵 ☃️ ✨",
    "e\u0301 a\u0308\u0323 o\u0302\u0301 \u1e9b\u0323 \u212b \u2126 \uac00\u11a8 \u1100\u1161\u11a8",
    "def f(x):\n    if x > 0:\n\t\treturn x ** 2  # comment\n\n\n    return [i for i in range(10)]\n",
    '#include <stdio.h>\r\nint main(void) {\r\n  printf("%d\\n", 42);\r\n}\r\n',
    "SELECT * FROM t WHERE a_b='c' AND d<>10;",
    '<html><body class="x">&nbsp;</body></html>',
    "https://example.org/a/b?c=d&e=%20#f",
    "user@example.com",
    "1234567890",
    "3.14159 1,000,000 1e-10 0xDEADBEEF 2024-06-07T12:34:56Z",
    "x² + y³ = ½ Ⅻ ①②③ ٣٤٥ १२३ 𝟙𝟚",
    "$\\int_0^\\infty e^{-x^2} dx$",
    "!!!???...---___===+++***",
    "----------",
    "======",
    "\u2581a\u2581\u2581b",
    "a_b_c __init__",
    "\t\ttabs\tand  spaces   here    ",
    " leading",
    "trailing ",
    "  two",
    "\n",
    "\n\n",
    " \n \n",
    "\r\n\r\n",
    "\r",
    "\u00a0nbsp\u00a0",
    "\u3000wide\u3000",
    "\u2028line\u2029para",
    "\u200bzero\u200bwidth\ufeff",
    "\x00nul\x01\x02\x1b[0m\x7f\x85\x9f",
    "Hello\x0bvertical\x0cfeed",
    '{"key": [1, 2.5, null, true]}',
    "A" * 40,
    "ab" * 30,
    " " * 33,
    "\n" * 17,
    "!" * 50,
    "9" * 21,
    "<0x0A><0x41>",
    "<s></s><unk><pad>",
    "<|endoftext|",
    "[INST] hi [/INST]",
]

BLANKS = [
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    " \n",
    "\n ",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u0085",
    "\u2028",
    "\x0b",
    "\x0c",
    "\u202f",
    "\u1680",
    "",
]

RANGES = [
    (0x20, 0x7E),
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x250, 0x36F),
    (0x370, 0x5FF),
    (0x600, 0x77F),
    (0x900, 0xDFF),
    (0xE00, 0x11FF),
    (0x1200, 0x1FFF),
    (0x2000, 0x2BFF),
    (0x2C00, 0x2FFF),
    (0x3000, 0x9FFF),
    (0xA000, 0xABFF),
    (0xAC00, 0xD7AF),
    (0xF900, 0xFFFD),
    (0x10000, 0x11FFF),
    (0x1D100, 0x1D7FF),
    (0x1F000, 0x1FAFF),
    (0x20000, 0x2A6DF),
    (0xE0000, 0xE01EF),
    (0, 0x1F),
    (0x7F, 0x9F),
]


def a_char(rng):
    """A character that Unicode 14 assigns: engines differ only in how new their tables are."""
    lo, hi = rng.choice(RANGES)
    for _ in range(50):
        c = chr(rng.randint(lo, hi))
        if unicodedata.category(c) not in ("Cn", "Cs"):
            return c
    return "?"


def a_part(rng, added):
    kind = rng.randrange(12)
    if kind < 4:
        p = rng.choice(PHRASES)
        a = rng.randrange(len(p))
        return p[a : a + rng.randint(1, 30)] if rng.random() < 0.6 else p
    if kind == 4:
        return "".join(a_char(rng) for _ in range(rng.randint(1, 12)))
    if kind == 5:
        return a_char(rng) * rng.choice([1, 2, 3, 4, 5, 8, 13, 30, 70])
    if kind == 6:
        return "".join(rng.choice(BLANKS) for _ in range(rng.randint(1, 6)))
    if kind == 7:
        return (
            rng.choice(["'", "\u2019"])
            + rng.choice(
                [
                    "s",
                    "t",
                    "re",
                    "ve",
                    "m",
                    "ll",
                    "d",
                    "S",
                    "T",
                    "RE",
                    "Ve",
                    "M",
                    "lL",
                    "D",
                    "r",
                    "l",
                    "\u017f",
                    "x",
                ]
            )
            + rng.choice(["", "a", " ", "1"])
        )
    if kind == 8:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 12)))
    if kind == 9 and added:
        t = rng.choice(added)
        return t if rng.random() < 0.8 else t[: rng.randrange(len(t)) + 1]
    if kind == 10:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFG") for _ in range(rng.randint(1, 15)))
    base = rng.choice("aeiouAEIOUnscz\u0915\u05d0\u0627")
    return base + "".join(
        chr(rng.choice([0x300, 0x301, 0x308, 0x316, 0x323, 0x327, 0x328, 0x345, 0x5B0, 0x64B, 0x93C]))
        for _ in range(rng.randint(1, 6))
    )


def texts(count, added, seed):
    """count byte strings: every phrase, then random compositions; one in forty has its UTF-8 broken."""
    rng = random.Random(seed)
    out = [b""] + [p.encode() for p in PHRASES] + [t.encode() for t in added[:40]]
    while len(out) < count:
        n = rng.choice([1, 1, 2, 3, 4, 6, 9, 14])
        s = "".join(a_part(rng, added) + (rng.choice(BLANKS) if rng.random() < 0.5 else "") for _ in range(n))
        b = bytearray(s.encode())
        if b and rng.random() < 0.025:
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(b) + 1)
                if rng.random() < 0.5:
                    b[at:at] = bytes(
                        [rng.choice([0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0xF5, 0xFF])]
                    )
                else:
                    del b[at : at + 1]
        out.append(bytes(b))
    return out[:count]


# --- the flat form ----------------------------------------------------------------------------------------


def esc(b):
    return "".join(chr(c) if 0x21 <= c <= 0x7E and c != 0x5C else "\\x%02x" % c for c in b)


def write_vocab(path, v):
    """v: kind, pretok, tokens [(text, attrs, score)], merges [bytes], and the ids and flags by name."""
    with open(path, "w", encoding="ascii") as f:
        print("kind", v["kind"], file=f)
        print("pretok", v.get("pretok", "none"), file=f)
        print("ids", *(v.get(k, -1) for k in ("bos", "eos", "unk", "pad")), file=f)
        print(
            "flags",
            *(int(v.get(k, False)) for k in ("add_bos", "add_eos", "space_prefix", "ignore_merges", "nfc")),
            file=f
        )
        print("scores", int(v.get("scores", False)), file=f)
        for text, attrs, score in v["tokens"]:
            print("t", attrs, "%.9g" % score, esc(text), file=f)
        for m in v.get("merges", []):
            print("m", esc(m), file=f)


def write_cases(path, cases):
    with open(path, "w", encoding="ascii") as f:
        for flags, ids, text in cases:
            print(flags, ",".join(map(str, ids)) or "-", esc(text), file=f)


def from_hf(tok, kind, pretok):
    """The description of a tokenizer.json, as a loader would make it."""
    d = json.loads(tok.to_str())
    model = d["model"]
    size = tok.get_vocab_size()
    top = max([i for i in model["vocab"].values()] + [a["id"] for a in d["added_tokens"]]) + 1
    tokens = [(b"<hole %d>" % i, UNUSED, 0.0) for i in range(max(size, top))]
    for text, i in model["vocab"].items():
        tokens[i] = (text.encode(), BYTE if kind == "spm" and is_byte(text) else 0, 0.0)
    for a in d["added_tokens"]:
        if not a["content"]:
            continue
        attrs = (
            ADDED
            | (SPECIAL if a["special"] else 0)
            | (LSTRIP if a["lstrip"] else 0)
            | (RSTRIP if a["rstrip"] else 0)
        )
        tokens[a["id"]] = (a["content"].encode(), attrs, 0.0)
    merges = [(m if isinstance(m, str) else " ".join(m)).encode() for m in model["merges"]]
    v = {
        "kind": kind,
        "pretok": pretok,
        "tokens": tokens,
        "merges": merges,
        "ignore_merges": bool(model.get("ignore_merges")),
        "nfc": "NFC" in json.dumps(d.get("normalizer")),
    }
    if model.get("unk_token"):
        v["unk"] = model["vocab"][model["unk_token"]]
        text, attrs, score = tokens[v["unk"]]
        tokens[v["unk"]] = (text, attrs | UNKNOWN, score)
    v["space_prefix"] = '"prepend"' in json.dumps(d.get("normalizer"))
    return v


def is_byte(text):
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def hf_cases(tok, all_texts, rng):
    """Two in three texts as they are, one in three with added tokens read as ordinary characters. Where the
    library's NFC differs from Python's (its tables are of an older Unicode, without marks added since), the text
    is left out."""
    cases = []
    nfc = tok.normalizer is not None and "NFC" in str(tok.normalizer)
    for b in all_texts:
        s = b.decode("utf-8", "replace")
        if nfc and tok.normalizer.normalize_str(s) != unicodedata.normalize("NFC", s):
            continue
        plain = rng.random() < 0.33
        special = [a for a in tok.get_added_tokens_decoder().values() if not a.special]
        if plain and special:  # Hugging Face can switch off special ones only
            plain = not any(a.content in s for a in special)
        tok.encode_special_tokens = plain
        cases.append((PLAIN if plain else 0, tok.encode(s, add_special_tokens=False).ids, b))
    return cases


def emit(out, name, v, cases):
    write_vocab(os.path.join(out, name + ".vocab"), v)
    write_cases(os.path.join(out, name + ".cases"), cases)
    print("%s: %d tokens, %d cases" % (name, len(v["tokens"]), len(cases)), file=sys.stderr)


# --- real vocabularies ------------------------------------------------------------------------------------

NPM = [
    ("gpt2", "tokenizer-gpt2", "bpe", "gpt2"),
    ("llama3", "tokenizer-llama3", "bpe", "llama3"),
    ("qwen3", "tokenizer-qwen3", "bpe", "qwen2"),
    ("gemma", "tokenizer-gemma", "spm", "none"),
    ("mistral", "tokenizer-llama2", "spm", "none"),
]


def link(target, path):
    """The file itself beside its cases, for the test that goes through the loaders."""
    if os.path.lexists(path):
        os.remove(path)
    os.symlink(os.path.abspath(target), path)


def big_npm(out, npm, count):
    for name, package, kind, pretok in NPM:
        path = os.path.join(npm, "node_modules", "@lenml", package, "models", "tokenizer.json")
        tok = Tokenizer.from_file(path)
        link(path, os.path.join(out, name + ".json"))
        v = from_hf(tok, kind, pretok)
        added = [t.decode() for t, a, _ in v["tokens"] if a & ADDED]
        rng = random.Random(SEED + 1)
        cases = hf_cases(tok, texts(count, added, SEED + len(name)), rng)
        emit(out, name, v, cases)
        if name == "mistral":
            emit(out, "mistral_scores", by_scores(v), cases)


def by_scores(v):
    """The same vocabulary as GGUF has it: no merges; a token's score falls with the rank of its first merge."""
    first = {}
    for rank, m in enumerate(v["merges"]):
        left, right = m.split(b" ")
        first.setdefault(left + right, rank)
    tokens = [(t, a, -float(first.get(t, -1) + 1)) for t, a, _ in v["tokens"]]
    return dict(v, tokens=tokens, merges=[], scores=True)


def big_gguf(out, path, count):
    """SmolLM2: the vocabulary as GGUF carries it; the Hugging Face tokenizer is built from the same lists."""
    from gguf import GGUFReader

    r = GGUFReader(path)
    link(path, os.path.join(out, "smollm2.gguf"))

    def value(key):
        return r.fields[key].contents()

    tokens, types, merges = (value("tokenizer.ggml." + k) for k in ("tokens", "token_type", "merges"))
    assert value("tokenizer.ggml.pre") == "smollm", value("tokenizer.ggml.pre")
    tok = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges])
    )
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tok.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3]
    )
    attrs = {1: 0, 3: SPECIAL | ADDED, 4: ADDED, 5: UNUSED}
    v = {
        "kind": "bpe",
        "pretok": "smollm",
        "tokens": [(t.encode(), attrs[k], 0.0) for t, k in zip(tokens, types)],
        "merges": [m.encode() for m in merges],
        "unk": value("tokenizer.ggml.unknown_token_id"),
    }
    added = [t for t, k in zip(tokens, types) if k in (3, 4)]
    emit(out, "smollm2", v, hf_cases(tok, texts(count, added, SEED + 7), random.Random(SEED + 1)))


# --- vocabularies trained here ----------------------------------------------------------------------------


def training_lines(seed, n):
    rng = random.Random(seed)
    lines = []
    for _ in range(n):
        k = rng.randint(1, 5)
        s = " ".join(rng.choice(PHRASES) if rng.random() < 0.8 else a_part(rng, []) for _ in range(k))
        lines.append(s.replace("\u2581", "_"))
    return lines


def spm_model(vocab_size, prefix, lines, byte_fallback=True):
    import sentencepiece as spm

    with tempfile.TemporaryDirectory() as d:
        src = os.path.join(d, "in.txt")
        with open(src, "w", encoding="utf-8") as f:
            f.write("\n".join(x.replace("\n", " ").replace("\r", " ").replace("\0", "") for x in lines))
        spm.SentencePieceTrainer.train(
            input=src,
            model_prefix=os.path.join(d, "m"),
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=byte_fallback,
            normalization_rule_name="identity",
            add_dummy_prefix=prefix,
            remove_extra_whitespaces=False,
            character_coverage=0.98,
            minloglevel=2,
            num_threads=1,
            hard_vocab_limit=False,
        )
        return spm.SentencePieceProcessor(model_file=os.path.join(d, "m.model"))


def spm_vocab(p, prefix):
    tokens = []
    for i in range(p.get_piece_size()):
        attrs = (
            (SPECIAL if p.is_control(i) else 0)
            | (UNKNOWN if p.is_unknown(i) else 0)
            | (BYTE if p.is_byte(i) else 0)
        )
        tokens.append((p.id_to_piece(i).encode(), attrs, p.get_score(i)))
    return {
        "kind": "spm",
        "tokens": tokens,
        "scores": True,
        "unk": p.unk_id(),
        "bos": p.bos_id(),
        "eos": p.eos_id(),
        "space_prefix": prefix,
    }


def emit_spm(out, name, p, prefix, count):
    """Scores, against SentencePiece itself (control tokens are no text to it: PLAIN)."""
    cases = []
    for b in texts(count * 2, [], SEED + 3):
        if b"\0" not in b and len(cases) < count:  # a zero byte ends a text for SentencePiece
            cases.append((PLAIN, p.encode(b.decode("utf-8", "replace")), b))
    emit(out, name, spm_vocab(p, prefix), cases)


def big_spm(out, count):
    lines = training_lines(SEED, 4000)
    emit_spm(out, "spm_scores", spm_model(3000, True, lines), True, count)
    emit_spm(out, "spm_scores_unk", spm_model(1500, False, lines, byte_fallback=False), False, count)


def small_bpe(out):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator(
        training_lines(SEED, 400),
        trainers.BpeTrainer(
            vocab_size=480, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    base = json.loads(tok.to_str())["model"]
    added = [
        AddedToken("<|end|>", special=True, normalized=False),
        AddedToken("<|end|>x", special=True, normalized=False),
        AddedToken("<mask>", special=True, normalized=False, lstrip=True),
        AddedToken("<sep>", special=True, normalized=False, rstrip=True),
    ]
    split = pre_tokenizers.Split
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for name, pre in (
        ("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=False)),
        (
            "smollm",
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            ),
        ),
        ("llama3", pre_tokenizers.Sequence([split(Regex(LLAMA3), "isolated"), byte_level])),
        ("qwen2", pre_tokenizers.Sequence([split(Regex(QWEN2), "isolated"), byte_level])),
    ):
        t = Tokenizer(
            models.BPE(
                vocab=base["vocab"], merges=[tuple(m) for m in base["merges"]], ignore_merges=name == "llama3"
            )
        )
        t.pre_tokenizer = pre
        t.decoder = decoders.ByteLevel()
        if name == "qwen2":
            t.normalizer = normalizers.NFC()
        t.add_special_tokens(added)
        emit(
            out,
            "tiny_" + name,
            from_hf(t, "bpe", name),
            hf_cases(t, texts(150, [a.content for a in added], SEED + 5), random.Random(SEED + 6)),
        )


def small_spm(out):
    p = spm_model(640, True, training_lines(SEED + 9, 300))
    emit_spm(out, "tiny_spm_scores", p, True, 130)
    # The same pieces with explicit merges, as converters write them for tokenizer.json.
    vocab = {p.id_to_piece(i): i for i in range(p.get_piece_size())}
    merges = sorted(
        (
            (a, b)
            for t in vocab
            for k in range(1, len(t))
            for a, b in [(t[:k], t[k:])]
            if a in vocab and b in vocab
        ),
        key=lambda m: (-p.get_score(vocab[m[0] + m[1]]), len(m[0]), m),
    )
    tok = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    v = from_hf(tok, "spm", "none")
    emit(
        out,
        "tiny_spm_merges",
        v,
        hf_cases(tok, texts(130, ["<s>", "</s>", "<unk>"], SEED + 8), random.Random(SEED + 6)),
    )


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=("big", "small"))
    ap.add_argument("out")
    ap.add_argument("--npm", help="directory whose node_modules has the tokenizer packages")
    ap.add_argument("--gguf", help="SmolLM2's GGUF file")
    ap.add_argument("--count", type=int, default=5000, help="texts for each vocabulary (5000)")
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    if a.what == "small":
        small_bpe(a.out)
        small_spm(a.out)
        return
    if a.npm:
        big_npm(a.out, a.npm, a.count)
    if a.gguf:
        big_gguf(a.out, a.gguf, a.count)
    big_spm(a.out, a.count)


if __name__ == "__main__":
    main()
