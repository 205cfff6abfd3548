#!/usr/bin/env python3
"""Fails where a comment or document names what does not exist.

usage: check_names.py ROOT

Looked up are, in comments of sources and in code spans of documents: names with an underscore, calls
like `name()`, constants like `kName`, and file names; in documents, relative links with their anchors.
A name exists if code, a script, a config or a protocol file uses it outside a comment; foreign names
that only prose mentions stand in foreign_names.txt beside this file.
"""

import re
import subprocess
import sys
from pathlib import Path

SKIPPED = 77  # as CMakeLists.txt knows it

CODE = (".h", ".cc", ".cu", ".cuh", ".proto", ".in")
SCRIPTS = (".py", ".sh", ".cmake", ".yaml", ".txt")
SUFFIXES = r"(?:h|cc|cu|cuh|proto|py|sh|cmake|yaml|md)"

IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
# A name of code in prose: with an underscore inside, a call, or a constant. Not part of a path,
# an option, or a pattern.
NAMED = re.compile(r"(?<![\w/.<$*{-])(?:([a-z]\w*_\w*[a-z0-9]|k[A-Z]\w*)\b|([a-z]\w{2,})\(\))(?![*</-]|\.\w)")
FILE = re.compile(rf"(?<![\w/.<*$}}-])((?:[\w.-]+/)*[A-Za-z][\w-]*\.{SUFFIXES})\b(?![*/(])")
FILE_IN_CODE = re.compile(rf"[\w-]+\.{SUFFIXES}\b")
INCLUDED = re.compile(r"#\s*include\s*<([^>]+)>")
# Stands for any name: NAME, or x as in x.cc; t_i of a formula.
PLACEHOLDER = re.compile(r"(^|[/_])[A-Z]+([./_]|$)|(^|/)[a-z]\.|\w_[a-z0-9]$")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")


def split_comments(text: str, line_marks: tuple[str, ...], blocks: bool):
    """The text without comments, and its comments as (line number, text)."""
    strings = r'"(?:\\.|[^"\\\n])*"' + r"|'(?:\\.|[^'\\\n])'"
    marks = "|".join(rf"{re.escape(mark)}[^\n]*" for mark in line_marks)
    pattern = rf"{strings}|({marks}" + (r"|/\*.*?\*/" if blocks else "") + ")"
    comments = []

    def replace(match: re.Match) -> str:
        if match.group(1) is None:
            return match.group(0)
        line = text.count("\n", 0, match.start()) + 1
        comments.extend((line + i, part) for i, part in enumerate(match.group(1).split("\n")))
        return " "

    return re.sub(pattern, replace, text, flags=re.DOTALL), comments


def anchors_of(text: str) -> set[str]:
    """The anchors that a document's headings get."""
    headings = re.findall(r"^#+ +(.*?) *$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Tree:
    """The tracked files of a checkout: what they define, and what their prose says."""

    def __init__(self, root: Path):
        listed = subprocess.run(["git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard"],
                                check=True, capture_output=True, text=True).stdout.split()
        self.root = root
        self.files = [name for name in listed if (root / name).is_file()]
        self.names: set[str] = set()
        self.written: set[str] = set()  # files that code names: it makes them, or they are foreign
        self.prose: list[tuple[str, int, str]] = []  # file, line, text
        for name in self.files:
            path = root / name
            if path.suffix == ".md":
                self.read_document(name, path.read_text())
            elif path.suffix in CODE + SCRIPTS or name.startswith(("scripts/", ".ci/")):
                self.read_source(name, path.read_text(errors="replace"))
        self.names.update(part for name in self.files for part in re.split(r"[/.]", name))

    def read_source(self, name: str, text: str) -> None:
        if name.endswith(".txt") and Path(name).name != "CMakeLists.txt":
            return
        if name.endswith(CODE):
            code, comments = split_comments(text, ("//",), blocks=True)
            self.prose += [(name, line, comment) for line, comment in comments]
        else:
            code = re.sub(r"^\s*#[^\n]*", "", text, flags=re.M)
        self.names.update(IDENTIFIER.findall(code))
        self.written.update(Path(found).name for found in FILE_IN_CODE.findall(code))
        self.written.update(INCLUDED.findall(code))

    def read_document(self, name: str, text: str) -> None:
        for line, content in enumerate(text.split("\n"), 1):
            self.prose += [(name, line, span) for span in SPAN.findall(content)]

    def file_exists(self, where: str, named: str) -> bool:
        if named in self.written:
            return True
        if (self.root / named).is_file() or ((self.root / where).parent / named).is_file():
            return True
        return any(file == named or file.endswith("/" + named) for file in self.files)


def find_stale_names(tree: Tree, foreign: set[str]) -> list[str]:
    faults = []
    for file, line, text in tree.prose:
        for match in NAMED.finditer(text):
            name = match.group(1) or match.group(2)
            if name not in tree.names and name not in foreign and not PLACEHOLDER.search(name):
                faults.append(f"{file}:{line}: no code has the name {name}")
        for name in FILE.findall(text):
            known = name in foreign or PLACEHOLDER.search(name)
            if not known and not tree.file_exists(file, name):
                faults.append(f"{file}:{line}: there is no file {name}")
    return faults


def find_dead_links(tree: Tree) -> list[str]:
    faults = []
    for name in (name for name in tree.files if name.endswith(".md")):
        text = (tree.root / name).read_text()
        for line, content in enumerate(text.split("\n"), 1):
            for link in LINK.findall(content):
                if re.match(r"[a-z]+:", link):
                    continue
                path, _, anchor = link.partition("#")
                target = (tree.root / name).parent / path if path else tree.root / name
                if not target.exists():
                    faults.append(f"{name}:{line}: the link {link} leads nowhere")
                elif anchor and target.suffix == ".md" and anchor not in anchors_of(target.read_text()):
                    faults.append(f"{name}:{line}: {path or name} has no heading for #{anchor}")
    return faults


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        tree = Tree(Path(sys.argv[1]).resolve())
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"skipped: git does not list the files: {error}")
        return SKIPPED
    listed = Path(__file__).with_name("foreign_names.txt").read_text()
    foreign = {name for line in listed.splitlines() for name in line.partition("#")[0].split()}
    faults = find_stale_names(tree, foreign) + find_dead_links(tree)
    used = {word for _, _, text in tree.prose for word in re.findall(r"[\w./-]+", text)}
    used |= {word.rstrip(".") for word in used}
    faults += [f"tests/house/foreign_names.txt: nothing mentions {name}" for name in sorted(foreign - used)]
    print("\n".join(faults) or f"{len(tree.files)} files: every name and link in prose exists")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
