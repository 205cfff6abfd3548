#!/usr/bin/env python3
"""What memory.recompute costs and saves: a GPT of 12 blocks, steps on random tokens by `lockstep bench
step`, every kind in turn, round after round. Prints one JSON line: the activations of a rank in bytes, and
processor seconds of a step (the difference between a long and a short run, so that starting up is taken
off), medians over the rounds, and both beside `none`.

usage: bench/recompute_cost.py [--binary build/bin/lockstep] [--rounds 3] [--steps 8] [--compute fp32]
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile

CONFIG = """
model: {layers: 12, heads: 8, width: 256, context: 256, vocab: 256}
data: {train: none.bin}
batch: {global: 4, micro: 4}
train: {steps: 1000}
optimizer: {learning_rate: 1e-3}
backend: {device: cpu, threads: 1}
"""
KINDS = ("none", "attention", "block")


def run(binary, config, kind, compute, steps):
    """The JSON line of bench step, and the processor seconds of the process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [binary, "bench", "step", config, "--synthetic", "--warmup", "1", "--steps", str(steps),
               "-o", "json", "--set", f"memory.recompute={kind}",
               "--set", f"precision.compute={compute}"]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(out.strip().splitlines()[0]), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="build/bin/lockstep")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--compute", default="fp32")
    options = parser.parse_args()
    binary = os.path.abspath(options.binary)
    seconds = {kind: [] for kind in KINDS}
    result = {"benchmark": "recompute_cost", "compute": options.compute, "rounds": options.rounds,
              "steps": options.steps}
    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "gpt12.yaml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(CONFIG)
        for _ in range(options.rounds):
            for kind in KINDS:
                _, short = run(binary, config, kind, options.compute, 1)
                line, long = run(binary, config, kind, options.compute, 1 + options.steps)
                seconds[kind].append((long - short) / options.steps)
                result["commit"] = line["commit"]
                result.setdefault(kind, {})["activation_bytes"] = (
                    line["memory"]["regions"]["activations"]["peak_bytes"])
    for kind in KINDS:
        result[kind]["cpu_seconds_of_a_step"] = round(statistics.median(seconds[kind]), 4)
        result[kind]["of_none"] = {
            "activations": round(result[kind]["activation_bytes"] /
                                 result["none"]["activation_bytes"], 4),
            "time": round(statistics.median(a / b for a, b in zip(seconds[kind], seconds["none"])), 4)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
