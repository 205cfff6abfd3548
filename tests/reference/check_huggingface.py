#!/usr/bin/env python3
"""Holds Lockstep against Hugging Face's Transformers itself.

    python3 tests/reference/check_huggingface.py LOCKSTEP [CASE...]

Each model of huggingface_models.EQUAL is saved by Transformers (some in several files, some in 16
bits), imported, trained for one step of plain SGD, exported and loaded again: loss within 1e-6, the
gradients that the step shows within 1e-5 of the largest, unchanged weights bit for bit. Each model
that cannot be expressed must be refused, naming field or type. Exit code 77 (skipped) where torch or
transformers is missing.
"""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers

    import huggingface_models as models
except ImportError as missing:
    # The environment of scripts/huggingface_check, in the build folder of the program.
    python = pathlib.Path(sys.argv[1]).resolve().parent.parent / "huggingface/bin/python"
    if python.exists() and pathlib.Path(sys.executable) != python:
        os.execv(python, [python, *sys.argv])
    print(f"skipped: {missing}; scripts/huggingface_check makes an environment that has it")
    sys.exit(77)

LEARNING_RATE = 8.0
SHARDED, HALF = {"llama", "qwen3"}, {"mistral_full"}


class Failure(Exception):
    pass


def run(binary, *arguments, code=0):
    result = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != code:
        raise Failure(f"exit code {result.returncode}, expected {code}: {' '.join(map(str, arguments))}\n"
                      f"{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def close(what, ours, theirs, tolerance):
    difference = abs(ours - theirs)
    if not difference <= tolerance:
        raise Failure(f"{what}: {ours} here, {theirs} there, {difference:.3g} apart (allowed {tolerance:.3g})")
    return difference


def train(binary, folder, config, output, rate):
    """One step from `config`, weights decided by plain gradient descent; the line of its metrics."""
    run(binary, "train", config, "--set", f"run.output={output}", "--set", f"data.train={folder / 'tokens.bin'}",
        "--set", f"batch={{global: {models.SEQUENCES}, micro: 1}}", "--set", "train.steps=1",
        "--set", f"model.context={models.CONTEXT}", "--set", "data.order=sequential",
        "--set", f"optimizer={{name: sgd, learning_rate: {rate}, weight_decay: 0}}",
        "--set", "schedule={name: constant, warmup_steps: 0}", "--set", "clip.mode=none", "--set", "model.dropout=0",
        "--set", "backend.device=cpu", "--set", "backend.threads=1")
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return next(line for line in lines if line["event"] == "step")


def load(kind, folder):
    model, info = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
        raise Failure(f"from_pretrained({folder}): {info}")
    return model.eval()


def check_equal(binary, name, folder):
    model = models.build(models.EQUAL[name])
    if name in HALF:
        model.to(torch.bfloat16)
    stored = folder / "stored"
    shards = {"max_shard_size": "2KB"} if name in SHARDED else {}
    (model if name in HALF else model.float()).save_pretrained(stored, **shards)
    if name in SHARDED and not (stored / "model.safetensors.index.json").exists():
        raise Failure("expected several files of weights")
    (folder / "tokens.bin").write_bytes(
        struct.pack(f"<{models.SEQUENCES * models.CONTEXT + 1}H",
                    *models.tokens(models.SEQUENCES * models.CONTEXT + 1).tolist()))
    run(binary, "import", stored, "--output", folder / "imported.yaml")
    if model.config.model_type == "bert":
        return "imported; its gradients are held to recorded ones"

    reference = load(type(model), stored).double()
    inputs, targets = models.batch(reference)
    loss = models.loss(reference, inputs, targets)
    loss.backward()

    # A step of rate 0: everything leaves as it came.
    step = train(binary, folder, folder / "imported.yaml", folder / "still", 1e-30)
    apart = close("loss", step["loss"], loss.item(), 1e-6)
    run(binary, "export", "--checkpoint", folder / "still", "--output", folder / "same")
    for key, value in load(type(model), folder / "same").state_dict().items():
        if not torch.equal(value, reference.state_dict()[key].float()):
            raise Failure(f"{key}: other bits after import and export")

    # A step that shows the gradients, and goes on from there in both.
    train(binary, folder, folder / "imported.yaml", folder / "stepped", LEARNING_RATE)
    run(binary, "export", "--checkpoint", folder / "stepped", "--output", folder / "after")
    after = load(type(model), folder / "after")
    worst = 0.0
    for key, parameter in reference.named_parameters():
        shown = (parameter.detach() - after.get_parameter(key).double()) / LEARNING_RATE
        scale = max(parameter.grad.abs().max().item(), 1e-2)
        worst = max(worst, (shown - parameter.grad).abs().max().item() / scale)
    close("gradients", worst, 0.0, 1e-5)
    checkpoint = next((folder / "stepped" / "checkpoints").glob("step-*"))
    load(type(model), checkpoint)  # a checkpoint is itself such a directory
    with torch.no_grad():
        expected = models.loss(after.double(), inputs, targets).item()
    run(binary, "import", folder / "after", "--output", folder / "again.yaml")
    close("loss after", train(binary, folder, folder / "again.yaml", folder / "again", 1e-30)["loss"], expected, 1e-6)
    return f"loss {apart:.1e}, gradients {worst:.1e} apart"


def check_refused(binary, stored, config, output, words):
    """By `import`, and by model.init_from of any configuration."""
    message = run(binary, "import", stored, "--output", output / "refused.yaml", code=2)
    for word in words:
        if word not in message:
            raise Failure(f"expected {word!r} in: {message}")
    message = run(binary, "train", config, "--set", f"model.init_from={stored}", "--set",
                  f"run.output={output / 'run'}", "--set", "backend.device=cpu", code=2)
    if words[0] not in message:
        raise Failure(f"expected {words[0]!r} in: {message}")
    return f"refused: {words[0]}"


def some_config(folder):
    (folder / "tokens.bin").write_bytes(struct.pack("<64H", *models.tokens(64).tolist()))
    config = folder / "some.yaml"
    config.write_text(f"model: {{layers: 2, heads: 2, width: 8, context: 12, vocab: {models.VOCAB}}}\n"
                      f"data: {{train: {folder / 'tokens.bin'}}}\nbatch: {{global: 1, micro: 1}}\n"
                      "train: {steps: 1}\noptimizer: {learning_rate: 1e-3}\n")
    return config


def check_refused_field(binary, name, folder):
    maker, word = models.REFUSED_FIELDS[name]
    kind, config = maker()
    kind(config).save_pretrained(folder / "stored")
    return check_refused(binary, folder / "stored", some_config(folder), folder, [word])


def check_refused_type(binary, name, folder):
    transformers.AutoConfig.for_model(name).save_pretrained(folder / "stored")
    return check_refused(binary, folder / "stored", some_config(folder), folder, [f'"{name}"', "qwen3"])


def main(binary, chosen):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    cases = [(name, check_equal) for name in models.EQUAL]
    cases += [(name, check_refused_field) for name in models.REFUSED_FIELDS]
    cases += [(name, check_refused_type) for name in models.REFUSED_TYPES]
    failures = 0
    for name, check in cases:
        if chosen and name not in chosen:
            continue
        with tempfile.TemporaryDirectory(prefix="huggingface-") as folder:
            try:
                print(f"{name}: {check(binary, name, pathlib.Path(folder))}", flush=True)
            except Failure as failure:
                failures += 1
                print(f"FAILED {name}: {failure}", flush=True)
    print(f"{failures} of {len(cases)} cases failed" if failures else f"{len(cases)} cases: equal, or refused by name")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], set(sys.argv[2:])))
