#!/usr/bin/env python3
"""Fails where clang-tidy 14 warns of a source that changed.

usage: check_tidy.py ROOT BUILD [FILE...]

Checked are the given files, or those that differ from the base: the commit in LOCKSTEP_TIDY_BASE, or
else where the branch left origin's; a clone of origin's branch differs in nothing. At most eight files are checked
without being named, the first by name; the rest is said.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SKIPPED = 77  # as CMakeLists.txt knows it
MOST = 8  # a file takes about 15 s of CPU
# Flags of GCC that clang does not know, and its precompiled headers.
# clang 14 has _Float16 on x86 only with AVX512-FP16; __fp16 converts alike.
NATIVE = ["-D_Float16=__fp16", "-Xclang", "-fallow-half-arguments-and-returns"]
FOREIGN = re.compile(r"-Winvalid-pch|-Wno-(restrict|stringop-\w+|maybe-uninitialized)|-fpch-.*")


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True).stdout.strip()


def changed_files(root: Path) -> list[str]:
    """The sources that differ from the base, as the working tree has them."""
    base = os.environ.get("LOCKSTEP_TIDY_BASE") or git(root, "merge-base", "HEAD", "origin/HEAD")
    if not base:
        return []
    names = git(root, "diff", "--name-only", "--diff-filter=d", base, "--", "*.cc").splitlines()
    return [name for name in names if not name.startswith("tests/")]


def commands_for_clang(build: Path) -> dict[str, dict]:
    """The compilation database by file, without what only GCC takes."""
    database = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        words, kept = shlex.split(entry["command"]), []
        while words:
            word = words.pop(0)
            if word == "-include" and "cmake_pch" in words[0]:
                words.pop(0)
            elif not FOREIGN.fullmatch(word):
                kept.append(word)
        database[entry["file"]] = {"directory": entry["directory"], "file": entry["file"],
                                   "arguments": kept + NATIVE}
    return database


def find_tool() -> str | None:
    for name in ("clang-tidy-14", "clang-tidy"):
        tool = shutil.which(name)
        if tool and re.search(r"version 14\.", subprocess.run([tool, "--version"], capture_output=True,
                                                              text=True).stdout):
            return tool
    return None


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    root, build = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    tool = find_tool()
    if tool is None:
        print("skipped: there is no clang-tidy 14")
        return SKIPPED
    database = commands_for_clang(build)
    files = sys.argv[3:] or changed_files(root)
    built = [name for name in files if str(root / name) in database]
    if not sys.argv[3:] and len(built) > MOST:
        print(f"of {len(built)} changed files not checked: {' '.join(built[MOST:])}")
        built = built[:MOST]
    if not built:
        print("no changed source")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        chosen = [database[str(root / name)] for name in built]
        (Path(folder) / "compile_commands.json").write_text(json.dumps(chosen))
        result = subprocess.run([tool, "--quiet", "--warnings-as-errors=*", "-p", folder, *built], cwd=root)
    print(f"clang-tidy over {' '.join(built)}")
    return 1 if result.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
