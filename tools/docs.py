#!/usr/bin/env python3
"""Puts the tables of `quern reference --markdown` into docs/api.md: tools/docs.py [--check] QUERN.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the text around it is written by hand. --check changes
nothing and fails when the page is not what the program says.
"""
import pathlib
import re
import subprocess
import sys

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "api.md"


def tables(quern):
    text = subprocess.run([quern, "reference", "--markdown"], check=True, capture_output=True, text=True).stdout
    parts = re.split(r"^<!-- table: (\S+) -->\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def renew(page, made):
    """The page with its tables replaced, and the names of those that it shows."""
    shown = []

    def table(m):
        shown.append(m.group(1))
        if m.group(1) not in made:
            sys.exit(f"docs/api.md wants a table {m.group(1)}, which the program does not have")
        return f"<!-- table: {m.group(1)} -->\n{made[m.group(1)]}<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end -->", table, page, flags=re.S), shown


def main():
    arguments = sys.argv[1:]
    check = arguments[:1] == ["--check"]
    if len(arguments) != 1 + check:
        sys.exit(__doc__)
    made = tables(arguments[-1])
    old = PAGE.read_text()
    new, shown = renew(old, made)
    missing = sorted(set(made) - set(shown))
    if missing:
        sys.exit(f"docs/api.md lacks: {', '.join(missing)}")
    if check and new != old:
        sys.exit("docs/api.md is not what the program says: make docs")
    if not check:
        PAGE.write_text(new)


main()
