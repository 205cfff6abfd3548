#!/usr/bin/env python3
"""Turns the JSON lines of scripts/gpu_bench into the tables of docs/benchmarks/gpu.md.

    bench/gpu_tables.py bench.jsonl > gpu.md
"""
import json
import sys

CAUSAL, PALM = "6N+6LCT causal", "PaLM 6N+12LCT"
PHASES = ["data", "forward", "backward", "reduce", "decide", "update", "gather", "other"]


def table(head, rows):
    if not rows:
        return
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def percent(share):
    return "-" if share is None else "%.1f %%" % (100 * share)


def mebibytes(number):
    return "-" if number is None else "%.0f" % (number / 2**20)


def mfu(line, convention):
    entry = line["mfu"][convention]
    return "%s / %s" % (percent(entry["of_datasheet_peak"]), percent(entry["of_measured_peak"]))


def model_of(line):
    return line["config"].replace("gpt2-", "") if line["bench"] == "step" else line["model"]


def several(line):
    return ", %d ranks (%s)" % (line["ranks"], line["comm"]) if line["ranks"] > 1 else ""


def training_row(line, rates):
    if line["bench"] == "step":
        name = "lockstep, `%s`" % line["reproducible"] + several(line)
        memory = line["memory"]["planned_device_bytes"] or line["memory"]["peak_bytes"]
    else:
        name = "torch %s, %s, %s" % (line["torch"], line["mode"], line["precision"])
        memory = line.get("peak_bytes")
    base = rates.get(model_of(line))
    return [model_of(line), name, "%d x %d" % (line["micro_batch"], line["context"]),
            "%.0f" % line["tokens_per_second"], "%.2f" % line["step_ms"],
            "%.2f" % (line["tokens_per_second"] / base) if base else "-",
            mfu(line, CAUSAL), mfu(line, PALM), mebibytes(memory)]


def print_training(lines):
    """Beside the fastest PyTorch of the same model."""
    measured = [line for line in lines if line["bench"] in ("step", "peer") and "mfu" in line]
    rates = {}
    for line in measured:
        if line["bench"] == "peer":
            rates[model_of(line)] = max(rates.get(model_of(line), 0.0), line["tokens_per_second"])
    if not measured:
        return
    print("## Training\n")
    peaks = sorted({"%.1f" % line["measured_peak_tflop_per_s"] for line in measured
                    if line["measured_peak_tflop_per_s"]})
    print("MFU is given of the datasheet's peak / of a large product measured in the same process (%s"
          % ", ".join(peaks), end=" ")
    print("TFLOP/s). N counts every weight, the token table once. Steps: median, the spread is in the lines. "
          "Memory: what lockstep allocates on the device, and the most that PyTorch has allocated at once.\n")
    table(["model", "program", "micro-batch", "tokens/s", "step ms", "to PyTorch", "MFU " + CAUSAL, "MFU " + PALM,
           "memory MiB"], [training_row(line, rates) for line in measured])


def print_phases(lines):
    steps = [line for line in lines if line["bench"] == "step" and "phases_ms" in line]
    rows = [[model_of(line), "`%s`" % line["reproducible"] + several(line)] +
            ["%.2f" % line["phases_ms"].get(phase, 0.0) for phase in PHASES] for line in steps]
    if rows:
        print("Time by phase, ms a step:\n")
        table(["model", "reproducible"] + PHASES, rows)


def print_communication(lines):
    rows = []
    for line in lines:
        split = line.get("communication_ms") if line["bench"] == "step" else None
        if not split or split["total"] is None:
            continue
        for name, part in [("reduce", split["reduce"]), ("gather", split["gather"]), ("both", split)]:
            rows.append([model_of(line), "%d (%s)" % (line["ranks"], line["comm"]), "%.2f" % line["step_ms"], name,
                         "%.2f" % part["total"], "%.2f" % part["hidden"], "%.2f" % part["exposed"]])
    if rows:
        print("Communication, ms a step: hidden beside computing, or exposed, in which the device stands still:\n")
        table(["model", "ranks", "step ms", "what", "total", "hidden", "exposed"], rows)


def print_collectives(lines):
    timed = [line for line in lines if line["bench"] == "comm"]
    if not timed:
        return
    print("## Collectives\n")
    print("Algorithm bandwidth: bytes of the whole vector over seconds. Bus bandwidth: of that (n-1)/n for "
          "reduce_scatter and all_gather, 2(n-1)/n for all_reduce. Of copies: bytes that must at least be read and "
          "written, beside copies on the device in the same run.\n")
    rows = []
    for line in timed:
        times = tuple(1e6 * line[key] for key in ("seconds", "fastest_seconds", "slowest_seconds"))
        rows.append([line["backend"] + (" " + line["nccl"] if line["nccl"] else ""), "%d" % line["ranks"],
                     line["collective"], line["dtype"], mebibytes(line["bytes"]), "%.1f (%.1f to %.1f)" % times,
                     "%.2f" % line["algorithm_gb_per_s"], "%.2f" % line["bus_gb_per_s"],
                     "%s of %.0f GB/s" % (percent(line["fraction_of_copy"]), line["copy_gb_per_s"])])
    table(["communication", "ranks", "collective", "dtype", "MiB", "us (fastest to slowest)", "algorithm GB/s",
           "bus GB/s", "of copies"], rows)


def print_operations(lines):
    runs = []
    for line in lines:
        if line["bench"] == "ops" and line["op"] == "ceilings":  # the first of a run
            runs.append([line])
        elif line["bench"] == "ops":
            runs[-1].append(line)
    for run in runs:
        first = run[0]
        print("## Operations: %s, %d tokens, %s, reproducible `%s`\n"
              % (first["shapes"], first["tokens"], first["dtype"], first["reproducible"]))
        print("Ceilings of the same run: copies read and write %.0f GB/s; a product of %d x %d does %.1f TFLOP/s.\n"
              % (first["copy_gb_per_s"], first["matrix_size"], first["matrix_size"], first["matrix_tflop_per_s"]))
        timed = [line for line in run if "fraction" in line]
        whole = sum(line["calls"] * line["seconds"] for line in timed)
        table(["operation", "part", "shape", "calls", "us", "GB/s", "TFLOP/s", "of the ceiling", "of the step"],
              [[line["op"], line["part"], line["shape"], "%.4g" % line["calls"], "%.1f" % (line["seconds"] * 1e6),
                "%.0f" % line["gb_per_s"], "%.1f" % line["tflop_per_s"] if line["operations"] else "",
                "%s (%s)" % (percent(line["fraction"]), line["bound"]),
                percent(line["calls"] * line["seconds"] / whole) if whole else "-"] for line in timed])
        for line in run:
            if line["op"] == "total":
                print("Calls x time: %.2f ms for a micro-batch and an update; the ceilings allow %.2f ms.\n"
                      % (line["seconds"] * 1e3, line["floor_seconds"] * 1e3))


def print_missing(lines):
    rows = []
    for line in lines:
        if line["bench"] in ("failed", "left out"):
            rows.append("`%s`: %s (%s)" % (line["command"], line["bench"], line["message"]))
        elif line["bench"] == "peer" and "mfu" not in line:
            rows.append("PyTorch, %s: %s" % (line["model"], line.get("skipped") or line.get("failed")))
        elif "skipped" in line and line["bench"] == "ops" and isinstance(line["skipped"], str):
            rows.append("%s %s: %s" % (line["op"], line["part"], line["skipped"]))
    if rows:
        print("## Not measured\n")
        print("\n".join("- " + row for row in rows))


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        lines = [json.loads(text) for text in file if text.strip()]
    devices = sorted({line["device_name"] for line in lines if "device_name" in line})
    commits = sorted({line["commit"] for line in lines if "commit" in line})
    print("Device: %s. Commit: %s.\n" % (", ".join(devices) or "-", ", ".join(commits) or "-"))
    print_training(lines)
    print_phases(lines)
    print_communication(lines)
    print_collectives(lines)
    print_operations(lines)
    print_missing(lines)


if __name__ == "__main__":
    main()
