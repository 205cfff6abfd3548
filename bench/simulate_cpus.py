#!/usr/bin/env python3
"""Holds `lockstep plan --cluster` against measured steps of ranks on this machine's CPUs.

    bench/simulate_cpus.py BUILD [--dtype fp32 bf16] [--ranks 1 2] [--steps 3]

For each number of ranks, one thread a rank: measures the rates of GPT-2 124M's operations while as many
threads are busy (bench ops) and of collectives between two ranks (bench comm), writes them into a cluster
file, lets `plan --cluster` predict a step, and measures that step (bench step). Prints a Markdown table and
the cluster files. The machine must be idle, and have a core for each rank.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configs", "gpt2_124m.yaml")
CLUSTER = """device:
  name: {name}, one thread
  memory_gib: {memory:.1f}
  memory_gb_per_s: {bandwidth:.2f}
  matmul_tflops: {{{dtype}: {matmul:.4f}}}
  attention_tflops: {{{dtype}: {attention:.4f}}}
network:
  hosts: 1
  ranks_per_host: {ranks}
  within_host: {{gb_per_s: {link:.2f}, latency_us: {latency:.1f}}}
  overlap: false
  decide_us_per_report: 1
"""


def lines(program, *arguments, copies=1):
    """The JSON lines that a command prints, run so many times at once."""
    command = [program, *arguments, "-o", "json"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                                env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(copies)]
    texts = [process.communicate(timeout=1500)[0] for process in running]
    if any(process.returncode != 0 for process in running):
        sys.exit("%s failed" % " ".join(command))
    return [json.loads(line) for text in texts for line in text.splitlines()
            if line.startswith("{")]


def rate(operations, what, wanted):
    """Work over time of the operations of a step, each as often as the step needs it."""
    chosen = [o for o in operations if o.get("calls", 0) > 0 and wanted(o["op"])]
    return sum(o["calls"] * o[what] for o in chosen) / sum(o["calls"] * o["seconds"] for o in chosen)


def cluster_of(program, dtype, ranks):
    # As many at once as there are ranks: cores share caches, memory and often more.
    operations = lines(program, "bench", "ops", "--shapes", "gpt2-124m", "--dtype", dtype,
                       "--threads", "1", "--seconds", "1", "--memory-mib", "6000", copies=ranks)
    product = lambda op: op.startswith("matmul")
    attention = lambda op: op.startswith("attention")
    comm = lines(program, "bench", "comm", "--ranks", "2", "--mebibytes", "1", "64")
    sums = [c for c in comm if c["collective"] == "reduce_scatter" and c["dtype"] == dtype] or \
           [c for c in comm if c["collective"] == "reduce_scatter" and c["dtype"].startswith(dtype)]
    large = max(sums, key=lambda c: c["bytes"])
    small = min(sums, key=lambda c: c["bytes"])
    moved = small["bus_gb_per_s"] * small["seconds"]  # what of the small one is not bandwidth
    latency = max(0.0, small["seconds"] - moved / large["bus_gb_per_s"])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 / ranks
    return CLUSTER.format(
        name=operations[0]["device_name"], memory=memory, dtype=dtype, ranks=ranks,
        matmul=rate(operations, "operations", product) / 1e12,
        attention=rate(operations, "operations", attention) / 1e12,
        bandwidth=rate(operations, "bytes", lambda op: not product(op) and not attention(op)) / 1e9,
        link=large["bus_gb_per_s"], latency=1e6 * latency)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    program = os.path.join(options.build, "bin", "lockstep")
    rows = []
    for dtype in options.dtype:
        settings = ["batch.micro=1", "batch.global=%d" % max(options.ranks),
                    "precision.compute=" + dtype, "backend.device=cpu"]
        sets = [word for each in settings for word in ("--set", each)]
        for ranks in options.ranks:
            text = cluster_of(program, dtype, ranks)
            print(text, file=sys.stderr)
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(text)
                file.flush()
                plan = lines(program, "plan", CONFIG, *sets, "--cluster", file.name, "--scaling",
                             "strong", "--ranks", str(ranks))[0]
            step = lines(program, "bench", "step", CONFIG, "--synthetic", "--ranks", str(ranks),
                         "--warmup", "1", "--steps", str(options.steps), *sets)[0]
            guess = {row["ranks"]: row for row in plan["rows"]}[ranks]["step_seconds"]
            rows.append((dtype, ranks, step["step_ms"] / 1e3, step["fastest_step_ms"] / 1e3,
                         step["slowest_step_ms"] / 1e3, guess, guess / (step["step_ms"] / 1e3) - 1))
    print("| type | ranks | measured s | fastest to slowest | predicted s | difference |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print("| %s | %d | %.2f | %.2f to %.2f | %.2f | %+.1f %% |" % (*row[:6], 100 * row[6]))


if __name__ == "__main__":
    main()
