#!/usr/bin/env python3
"""Reads the event files of real runs with the `tensorboard` package and compares every tag and value
with metrics.jsonl.

usage: tensorboard_package.py LOCKSTEP WORK_DIRECTORY

Without the package it is installed into a virtual environment in WORK_DIRECTORY; where that cannot be
done the test is skipped.
"""

import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import sys

SKIPPED = 77
PACKAGES = ["tensorboard==2.20.0", "setuptools<81"]
CONFIG = """
run: {seed: 7}
model: {layers: 2, heads: 2, width: 32, context: 16, vocab: 64}
data: {train: tokens.bin, validation: tokens.bin}
batch: {global: 8, micro: 2}
train: {steps: 30, validate_every: 6, validate_batches: 2}
optimizer: {learning_rate: 1e-2}
schedule: {warmup_steps: 5}
checkpoint: {every_steps: 10}
metrics: {tensorboard: true, per_layer_every: 5, histograms_every: 15}
"""
SCALARS = {
    "step": {"train/loss": "loss", "train/grad_norm": "grad_norm",
             "train/clip_coefficient": "clip_coefficient", "train/learning_rate": "learning_rate",
             "train/loss_scale": "loss_scale", "throughput/tokens_per_second": "tokens_per_second",
             "throughput/step_seconds": "step_seconds"},
    "validation": {"validation/loss": "loss"},
}
OF_LAYERS = ["grad_norm", "grad_max", "weight_norm", "update_ratio", "zero_share",
             "fp16_underflow_share", "activation_rms", "activation_max", "attention_logit_max",
             "attention_entropy", "dead_share"]


def rerun_with_package(work):
    python = work / "venv" / "bin" / "python"
    if sys.executable == str(python):
        sys.exit(SKIPPED)
    probe = [str(python), "-c", "import tensorboard"]
    if python.exists() and subprocess.run(probe, stderr=subprocess.DEVNULL).returncode == 0:
        os.execv(python, [str(python), *sys.argv])
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True, timeout=120)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True, timeout=300)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"skipped: tensorboard cannot be installed: {error}")
        sys.exit(SKIPPED)
    os.execv(python, [str(python), *sys.argv])


def expected_scalars(run):
    """{tag: [(step, value)]} as the lines of metrics.jsonl have them."""
    found = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        pairs = [(tag, line[field]) for tag, field in SCALARS.get(line["event"], {}).items()]
        if line["event"] == "layers":
            pairs = [(f"layers/{layer['name']}/{field}", layer[field])
                     for layer in line["layers"] for field in OF_LAYERS]
        for tag, value in pairs:
            if value is not None:
                found.setdefault(tag, []).append((line["step"], value))
    return found


def as_float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def compare(run, accumulator):
    tags = accumulator.Tags()
    expected = expected_scalars(run)
    assert set(tags["scalars"]) == set(expected), set(tags["scalars"]) ^ set(expected)
    for tag, points in expected.items():
        found = [(event.step, event.value) for event in accumulator.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in points], (tag, found, points)
        for (step, value), (_, wanted) in zip(found, points):
            assert math.isclose(value, as_float32(wanted), rel_tol=1e-6, abs_tol=1e-30), (
                tag, step, value, wanted)
    histograms = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
                  if '"event":"histogram"' in line]
    for line in histograms:
        for tensor in line["tensors"]:
            tag = "histograms/" + tensor["name"]
            event = next(e for e in accumulator.Tensors(tag) if e.step == line["step"])
            from tensorboard.util import tensor_util
            rows = tensor_util.make_ndarray(event.tensor_proto)
            assert rows.shape == (2 * len(tensor["positive"]) + 1, 3), (tag, rows.shape)
            assert rows[:, 2].sum() == tensor["elements"], tag
            assert (rows[1:, 0] == rows[:-1, 1]).all(), tag
    texts = [tag for tag in tags["tensors"] if tag == "config/text_summary"]
    assert texts, tags
    return len(expected)


def main():
    lockstep, work = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        from tensorboard.backend.event_processing import event_accumulator
    except ImportError:
        rerun_with_package(work)
    data = work / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    (data / "tokens.bin").write_bytes(
        b"".join(struct.pack("<H", i * i // 3 % 64) for i in range(4000)))
    (data / "config.yaml").write_text(CONFIG)

    def train(output, *more, code=0):
        command = [lockstep, "train", "config.yaml", "--set", f"run.output={output}", *more]
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        done = subprocess.run(command, cwd=data, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=120)
        assert done.returncode == code or code is None, done.stdout.decode()

    def read(run):
        accumulator = event_accumulator.EventAccumulator(
            str(run / "tensorboard"), size_guidance={key: 0 for key in ("scalars", "tensors")})
        accumulator.Reload()
        return compare(run, accumulator)

    train("whole")
    print("whole:", read(data / "whole"), "scalar tags")
    # Killed between checkpoints: steps 11 to 14 are computed, and written, again.
    train("killed", "--set", "fault=[{kind: kill, step: 15}]", code=None)
    train("killed", "--set", "fault=[{kind: kill, step: 15}]", "--resume", "auto")
    files = len(list((data / "killed" / "tensorboard").iterdir()))
    assert files == 2, files
    print("killed and resumed:", read(data / "killed"), "scalar tags")
    # From the beginning once more, in the same directory.
    train("killed", "--resume", str(data / "killed" / "checkpoints" / "step-00000010"))
    print("resumed by path:", read(data / "killed"), "scalar tags")


main()
