#!/usr/bin/env python3
"""Cases for tests/unit/model/constrain: random small expressions, texts, and whether Python's re finds that the
whole text matches. One JSON array a line: [expression, text, 0 or 1, text, 0 or 1, ...].

Usage: tools/golden/regex.py > tests/golden/regex/cases.jsonl   (same output every time)
"""
import json
import random
import re

rnd = random.Random(20240611)
ALPHABET = ["a", "b", "c", "0", "1", " ", "\n", "é", "€", "𝄞", "-", "]", ".", "_", "Z"]
CLASSES = [("[abc]", "abc"), ("[^a]", "bc0 €𝄞\n"), ("[a-c]", "abc"), (r"\d", "01"), (r"\D", "a€"), (r"\w", "ab_0Z"),
           (r"\W", " €\n"), (r"\s", " \n"), (r"\S", "aé"), (".", "aé€𝄞"), ("[é-€]", "é€"), ("[^é€]", "a𝄞"),
           (r"[\d\s-]", "0 -"), ("[]a]", "]a"), ("[^]a]", "b𝄞"), (r"[\]\-a]", "]-a"), ("[a-]", "a-"), ("[𝄞a]", "𝄞a"),
           (r"[\u20ac-\U0001d11e]", "€𝄞"), (r"\x61", "a"), (r"[\W]", " €")]


def escape(c):
    return rnd.choice([c, "\\" + c]) if c in " -_" and c != "_" else "\\" + c if c in r".]" else c


def node(depth):
    """An expression and a function that gives a text of it."""
    kind = rnd.random()
    if depth == 0 or kind < 0.25:
        c = rnd.choice(ALPHABET)
        return escape(c), lambda: c
    if kind < 0.45:
        pattern, chars = rnd.choice(CLASSES)
        return pattern, lambda: rnd.choice(chars)
    if kind < 0.65:
        parts = [node(depth - 1) for _ in range(rnd.randint(1, 3))]
        return "".join(wrap(p) for p, _ in parts), lambda: "".join(f() for _, f in parts)
    if kind < 0.8:
        parts = [node(depth - 1) for _ in range(rnd.randint(2, 3))]
        return (rnd.choice(["(?:", "(", "(?P<n%d>" % rnd.randint(0, 10**6)]) + "|".join(p for p, _ in parts) + ")",
                lambda: rnd.choice(parts)[1]())
    p, f = node(depth - 1)
    lo = rnd.randint(0, 3)
    hi = lo + rnd.randint(0, 3)
    q, most = rnd.choice([("*", (0, 4)), ("+", (1, 4)), ("?", (0, 1)), ("{%d}" % lo, (lo, lo)), ("{%d,}" % lo, (lo, lo + 2)),
                          ("{%d,%d}" % (lo, hi), (lo, hi)), ("{,%d}" % hi, (0, hi))])
    return "(?:" + p + ")" + q + rnd.choice(["", "", "?"]), lambda: "".join(f() for _ in range(rnd.randint(*most)))


def wrap(p):
    return "(?:" + p + ")" if "|" in p else p


def mutate(s):
    at = rnd.randint(0, len(s))
    return rnd.choice([s[:at] + rnd.choice(ALPHABET) + s[at:], s[:max(at - 1, 0)] + s[at:], s[:at], s + s])


def main():
    seen = set()
    while len(seen) < 500:
        pattern, sample = node(4)
        anchored = rnd.choice(["", "", "", "^"]) + wrap(pattern) + rnd.choice(["", "", "", "$"])
        if len(anchored) > 120 or anchored in seen:
            continue
        try:
            compiled = re.compile(anchored, re.ASCII)
        except re.error:
            continue
        seen.add(anchored)
        case = [anchored]
        for _ in range(4):
            s = sample()
            for t in (s, mutate(s), "".join(rnd.choice(ALPHABET) for _ in range(rnd.randint(0, 4)))):
                if len(t) > 40 or (anchored.endswith("$") and t.endswith("\n")):  # $ would match before it
                    continue
                case += [t, int(compiled.fullmatch(t) is not None)]
        print(json.dumps(case, ensure_ascii=False))


main()
