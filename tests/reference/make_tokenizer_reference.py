#!/usr/bin/env python3
"""Writes recorded/tokenizers.json: texts and their ids by Hugging Face's `tokenizers`.

Needs: pip install tokenizers==0.23.3
"""

import json
import pathlib
import random

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

HERE = pathlib.Path(__file__).resolve().parent
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = (CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         + CONTRACTION + r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTION
         + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PATTERNS = {"gpt2": None, "gpt4": WORDS % r"\p{N}{1,3}", "qwen2": WORDS % r"\p{N}", "o200k": O200K}
PIECES = ["'s", "'S", "'\u017f", "'LL", "12345", "\U0001f600", "\U0001f468\u200d\U0001f469", "Hello",
          "WORLD", "fooBar", "\u01c5", "\u02b0", "/", "\r\n", "   ", "<|a|>", "<|ab|>", "<|endoftext|>",
          "the", "ello", "\u0301", "\u0327", "\u0345", "\u1100\u1161\u11a8", "\u3099", "\u180e", "\x85"]
SPACES = [" ", "\n", "\r", "\t", "\u00a0", "\u2028", "\u3000", "\x0b"]


def random_text(rng, length):
    parts = []
    for _ in range(length):
        kind = rng.random()
        if kind < 0.3:
            parts.append(chr(rng.randrange(32, 127)))
        elif kind < 0.45:
            parts.append(rng.choice(SPACES))
        elif kind < 0.65:
            parts.append(rng.choice(PIECES))
        else:
            code = rng.randrange(0x3000) if kind < 0.85 else rng.randrange(0x110000)
            parts.append(chr(code) if not 0xD800 <= code < 0xE000 else "x")
    return "".join(parts)


def make_tokenizer(name, corpus):
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "gpt4"))
    pre = pre_tokenizers.ByteLevel(add_prefix_space=name == "gpt2")
    if PATTERNS[name]:
        split = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated")
        pre = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"], show_progress=False))
    tokenizer.add_special_tokens([AddedToken("<|a|>", normalized=False),
                                  AddedToken("<|ab|>", lstrip=True, rstrip=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("ello"), AddedToken("the", normalized=True, rstrip=True)])
    if name == "gpt4":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|a|> $A <|endoftext|>",
            special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("<|a|>", "<|endoftext|>")])
    return tokenizer


def main():
    rng = random.Random(16)
    corpus = [random_text(rng, 200) for _ in range(100)]
    corpus += ["the quick brown fox. Hello WORLD fooBar 12345 it's "] * 20
    cases = []
    for name in PATTERNS:
        tokenizer = make_tokenizer(name, corpus)
        texts = [random_text(rng, rng.randrange(30)) for _ in range(120)]
        texts.append("a   b\n\n  next \nfoo_bar(x);\r\nI'M it's x1234567")
        cases.append({"name": name, "tokenizer_json": tokenizer.to_str(), "texts": texts,
                      "ids": [tokenizer.encode(text).ids for text in texts]})
    (HERE / "recorded" / "tokenizers.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
