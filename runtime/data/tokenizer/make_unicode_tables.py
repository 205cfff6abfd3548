#!/usr/bin/env python3
"""Writes unicode_class_table.cc and nfc_table.cc, beside this file.

Needs, in a virtual environment: pip install unicodedata2==16.0.0 tokenizers==0.23.3

The classes are those of Unicode 16.0, which the pre-tokenisation patterns of `tokenizers` read. Its
NFC has the data of an older version: a mark or a composition that it does not know is left out here
too, found by asking it.
"""

import pathlib

import tokenizers
import unicodedata2 as ucd

HERE = pathlib.Path(__file__).resolve().parent
NOTE = "// Written by make_unicode_tables.py; do not edit.\n"
CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
WHITE_SPACE = {*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
               0x202F, 0x205F, 0x3000}
LETTER, NUMBER, MARK, SPACE, UPPER, LOWER = 1, 2, 4, 8, 16, 32


def class_of(code):
    category = ucd.category(chr(code))
    bits = {"L": LETTER, "N": NUMBER, "M": MARK}.get(category[0], 0)
    if category in ("Lu", "Lt"):
        bits |= UPPER
    if category == "Ll":
        bits |= LOWER
    return bits | (SPACE if code in WHITE_SPACE else 0)


def rows(cells):
    """Cells in lines of at most 100 columns."""
    line = "   "
    for cell in cells:
        if len(line) + len(cell) + 2 > 100:
            yield line
            line = "   "
        line += f" {cell},"
    yield line


def array(kind, name, cells):
    body = "\n".join(rows(cells))
    return f"const std::array<{kind}, {len(cells)}> {name} = {{{{\n{body}\n}}}};\n"


def write(name, header, parts):
    text = NOTE + f'#include "runtime/data/tokenizer/{header}"\n\n// clang-format off\n'
    text += "namespace lockstep::runtime {\n\n" + "\n".join(parts)
    text += "\n}  // namespace lockstep::runtime\n"
    (HERE / name).write_text(text)


def write_classes():
    runs = []
    for code in range(0x110000):
        bits = class_of(code)
        if not runs or runs[-1][1] != bits:
            runs.append((code, bits))
    cells = [f"{{0x{begin:X}, {bits}}}" for begin, bits in runs]
    write("unicode_class_table.cc", "unicode_class_table.h",
          [array("UnicodeClassRun", "kUnicodeClassRuns", cells)])


def write_nfc():
    nfc = tokenizers.normalizers.NFC().normalize_str
    classes = []
    for code in CODES:
        combining = ucd.combining(chr(code))
        if combining == 0:
            continue
        # A mark it knows trades places with one of a smaller, or of a greater, class.
        probes = ["a" + chr(code) + "\u0334", "a" + "\u0345" + chr(code)]
        if any(nfc(p) != p for p in probes):
            classes.append((code, combining))
    known = {code for code, _ in classes}
    decompositions, excluded = [], []
    for code in CODES:
        field = ucd.decomposition(chr(code))
        if not field or field.startswith("<"):
            continue
        parts = [int(p, 16) for p in field.split()]
        composed = "".join(map(chr, parts))
        if nfc(chr(code)) == chr(code) and nfc(composed) != chr(code):
            continue  # newer than its data
        parts.append(0)
        decompositions.append((code, parts[0], parts[1]))
        if parts[1] and nfc(composed) != chr(code):
            excluded.append(code)
    runs = []
    for code, combining in classes:
        if runs and runs[-1][1] == code - 1 and runs[-1][2] == combining:
            runs[-1][1] = code
        else:
            runs.append([code, code, combining])
    assert all(c in known for c in (0x300, 0x334, 0x345))
    cell = lambda t: "{" + ", ".join(f"0x{v:X}" for v in t) + "}"
    write("nfc_table.cc", "nfc_table.h", [
        array("CombiningRun", "kCombiningRuns", [cell(r) for r in runs]),
        array("CharacterPair", "kDecompositions", [cell(d) for d in decompositions]),
        array("char32_t", "kCompositionExclusions", [f"0x{c:X}" for c in excluded])])


if __name__ == "__main__":
    write_classes()
    write_nfc()
