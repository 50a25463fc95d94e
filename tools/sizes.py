#!/usr/bin/env python3
"""Checks size budgets of C files: functions at most 80 lines and p90 at most 45, files at most 800 lines.

Tables and SIMD kernels (kernels/x86, kernels/ref) are exempt from the function budget. A function starts at a line
in column 0 that ends with '{' and has a '(' and ends at the next '}' in column 0 (clang-format's layout).
"""
import sys

MAX_FUNCTION, P90_FUNCTION, MAX_FILE = 80, 45, 800


def functions(path):
    start = None
    name = ""
    with open(path, encoding="utf-8") as f:
        lines = f.read().split("\n")
    header = ""
    for number, line in enumerate(lines, 1):
        if start is None:
            if line and line[0] not in " \t}#/*":
                header = line if not header.endswith(",") else header + line
            elif header.endswith(",") and line.startswith(" "):
                header += line
            if line.endswith("{") and "(" in (header or line) and not line.startswith((" ", "}")) or (
                    line.endswith(") {") and header and "(" in header):
                if "=" not in header.split("(")[0] and not header.startswith(("struct ", "enum ", "union ")) or ") {" in line:
                    start, name = number, header.split("(")[0].split()[-1].lstrip("*")
        elif line.startswith("}"):
            yield name, number - start + 1
            start, header = None, ""
    return


def main():
    bad = 0
    sizes = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as f:
            n = f.read().count("\n")
        if n > MAX_FILE:
            print(f"{path}: {n} lines (at most {MAX_FILE})")
            bad = 1
        if not path.endswith(".c") or path.startswith(("kernels/x86/", "kernels/ref/")):
            continue
        for name, size in functions(path):
            sizes.append(size)
            if size > MAX_FUNCTION:
                print(f"{path}: {name} has {size} lines (at most {MAX_FUNCTION})")
                bad = 1
    sizes.sort()
    if sizes:
        p90 = sizes[int(len(sizes) * 0.9)]
        print(f"{len(sizes)} functions, median {sizes[len(sizes) // 2]}, p90 {p90}, max {sizes[-1]}")
        if p90 > P90_FUNCTION:
            bad = 1
    return bad


sys.exit(main())
