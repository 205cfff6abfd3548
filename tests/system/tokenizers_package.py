#!/usr/bin/env python3
"""Compares `lockstep data encode` and a tokenizer trained here with Hugging Face's `tokenizers`.

usage: tokenizers_package.py LOCKSTEP WORK_DIRECTORY

Without the package it is installed into a virtual environment in WORK_DIRECTORY; where that cannot be
done the test is skipped.
"""

import json
import os
import pathlib
import random
import subprocess
import sys

SKIPPED = 77
VERSION = "0.23.3"
TEXTS = 10000
REFERENCE = pathlib.Path(__file__).resolve().parent.parent / "reference"


def rerun_with_package(work):
    python = work / "venv" / "bin" / "python"
    if sys.executable == str(python):
        sys.exit(SKIPPED)
    probe = [str(python), "-c", "import tokenizers"]
    if python.exists() and subprocess.run(probe, stderr=subprocess.DEVNULL).returncode == 0:
        os.execv(python, [str(python), *sys.argv])
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True, timeout=120)
        subprocess.run([python, "-m", "pip", "install", "-q", "tokenizers==" + VERSION], check=True,
                       timeout=300)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"skipped: tokenizers cannot be installed: {error}")
        sys.exit(SKIPPED)
    os.execv(python, [str(python), *sys.argv])


def encode(lockstep, directory, text, *options):
    source = directory / "text"
    source.write_bytes(text.encode())
    command = [lockstep, "data", "encode", "--tokenizer", f"bpe:{directory}", *options, source]
    return [json.loads(line) for line in subprocess.run(
        command, check=True, stdout=subprocess.PIPE).stdout.splitlines()]


def compare(name, tokenizer, lockstep, directory, rng, random_text):
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    # Lines have no newline; texts with newlines are encoded as one.
    lines = [random_text(rng, rng.randrange(40)).replace("\n", "\r") for _ in range(TEXTS // 4)]
    lines += ["a" + chr(c) + "1" + chr(c) + " " + chr(c) * 2 + "\r" + chr(c) + "A"
              for c in range(rng.randrange(7), 0x110000, 7) if not 0xD800 <= c < 0xE000 and c != 10]
    found = encode(lockstep, directory, "".join(line + "\n" for line in lines))
    assert len(found) == len(lines), f"{name}: {len(found)} lists for {len(lines)} lines"
    for line, ids in zip(lines, found):
        assert ids == tokenizer.encode(line).ids, f"{name}: {line!r}"
    whole = random_text(rng, 20000) + "\n" * 5
    assert encode(lockstep, directory, whole, "--whole") == [tokenizer.encode(whole).ids], name


def compare_training(lockstep, directory, rng, random_text):
    directory.mkdir(parents=True, exist_ok=True)
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    text = "".join(random_text(rng, 30) + " the quick brown fox\n" for _ in range(400))
    (directory / "corpus").write_bytes(text.encode())
    subprocess.run([lockstep, "data", "train-tokenizer", "--vocab", "700", "--pattern", "gpt2",
                    "--input", directory / "corpus", "--output", directory], check=True)
    expected = Tokenizer(models.BPE())
    expected.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    expected.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"], show_progress=False))
    found = json.loads((directory / "tokenizer.json").read_text())["model"]
    wanted = json.loads(expected.to_str())["model"]
    assert found["vocab"] == wanted["vocab"], "vocabularies differ"
    assert [tuple(m) for m in found["merges"]] == [tuple(m) for m in wanted["merges"]]
    loaded = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert loaded.encode(text).ids == expected.encode(text).ids


def main():
    lockstep, work = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        import tokenizers
    except ImportError:
        rerun_with_package(work)
    sys.path.insert(0, str(REFERENCE))
    from make_tokenizer_reference import PATTERNS, make_tokenizer, random_text
    rng = random.Random(int(os.environ.get("LOCKSTEP_SEED", "18")))
    corpus = [random_text(rng, 200) for _ in range(100)] + ["the quick brown fox it's 12345 "] * 20
    for name in PATTERNS:
        compare(name, make_tokenizer(name, corpus), lockstep, work / name, rng, random_text)
    compare_training(lockstep, work / "trained", rng, random_text)
    print(f"equal to tokenizers {tokenizers.__version__}")


if __name__ == "__main__":
    main()
