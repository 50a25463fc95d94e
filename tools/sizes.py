#!/usr/bin/env python3
"""Checks size budgets of C files: functions at most 80 lines and p90 at most 45, files at most 800 lines.

SIMD kernels (kernels/x86, kernels/ref) are exempt from the function budget. In clang-format's layout a function is a
signature in column 0, over one line or more, that ends with ') {', and its body ends at the next '}' in column 0;
its size counts both. `tools/sizes.py --list FILE...` prints "size file:line name" for each.
"""
import re
import sys

MAX_FUNCTION, P90_FUNCTION, MAX_FILE = 80, 45, 800
NAME = re.compile(r"(\w+)\(")
NOISE = re.compile(r"\s*/\*.*?\*/|__attribute__\(\(.*?\)\)+ ?")


def functions(lines):
    """Yields (name, first line, lines) of every function."""
    first = None  # line of the signature that is open or whose body is open
    body = False
    name = ""
    for number, line in enumerate(lines, 1):
        if body:
            if line.startswith("}"):
                yield name, first, number - first + 1
                first, body = None, False
            continue
        line = NOISE.sub("", line)
        if re.match(r"\w", line):
            first, name = number, ""
        if first is None:
            continue
        if not name and (found := NAME.search(line)):
            name = found.group(1)
        if line.endswith(") {"):
            body = True
        elif line.endswith((";", "{", "}")) or not line:  # a declaration, a struct, an initialiser
            first = None


def main(args):
    show = args[:1] == ["--list"]
    sizes, bad = [], False
    for path in args[show:]:
        with open(path, encoding="utf-8") as f:
            lines = f.read().split("\n")
        if len(lines) - 1 > MAX_FILE:
            print(f"{path}: {len(lines) - 1} lines (at most {MAX_FILE})")
            bad = True
        if path.startswith(("kernels/x86/", "kernels/ref/")):
            continue
        for name, line, size in functions(lines):
            sizes.append(size)
            if show:
                print(f"{size} {path}:{line} {name}")
            if size > MAX_FUNCTION:
                print(f"{path}:{line}: {name} has {size} lines (at most {MAX_FUNCTION})")
                bad = True
    if not sizes:
        print("no function found")
        return 1
    sizes.sort()
    p90 = sizes[int(len(sizes) * 0.9)]
    print(f"{len(sizes)} functions, median {sizes[len(sizes) // 2]}, p90 {p90}, max {sizes[-1]}")
    return int(bad or p90 > P90_FUNCTION)


sys.exit(main(sys.argv[1:]))
