#!/usr/bin/env python3
"""Trains a GPT-2 with PyTorch as one would today, on random tokens, and prints one JSON line.

    bench/peers/torch_gpt2.py --model 124m --micro 64 --seconds 120

The peer of `lockstep bench step`: the same model (learned positions, tanh-GELU, tied embeddings, biases,
no dropout, 50304 rows in the token table), the same micro-batch and rounds, bf16 on fp32 master weights,
flash attention, torch.compile, fused AdamW, gradients clipped to a norm of 1. A step is forward and
backward of every round, clipping and update. Times are between events of the device; tokens_per_second
is from the median step after the warm-up.

--precision autocast is what most programs do: fp32 weights, cast where they are used, and a residual
stream in fp32. master is what lockstep does: weights and stream in bf16, and the optimizer on a copy in
fp32.

It never runs longer than --seconds, compiling included: what is then there is printed. Exit code 0, 2
where PyTorch or the device is missing ("skipped" says why), 1 when nothing was measured.
"""
import argparse
import collections
import json
import math
import os
import statistics
import sys
import threading
import time

STARTED = time.monotonic()

Sizes = collections.namedtuple("Sizes", "layers heads width context vocab")
MODELS = {
    "tiny": Sizes(2, 2, 64, 32, 256),
    "124m": Sizes(12, 12, 768, 1024, 50304),
    "350m": Sizes(24, 16, 1024, 1024, 50304),
    "774m": Sizes(36, 20, 1280, 1024, 50304),
    "1558m": Sizes(48, 25, 1600, 1024, 50304),
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="124m")
    parser.add_argument("--micro", type=int, default=16, help="sequences of a micro-batch")
    parser.add_argument("--rounds", type=int, default=1, help="micro-batches of a step")
    parser.add_argument("--steps", type=int, default=20, help="measured steps, at most")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them, compiling included")
    parser.add_argument("--seconds", type=float, default=180.0, help="the most time that all of it takes")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--compile-mode", default="default", help="mode of torch.compile")
    parser.add_argument("--attention", choices=["flash", "cudnn", "any"], default="flash",
                        help="kernel of scaled_dot_product_attention; any: PyTorch chooses")
    parser.add_argument("--precision", choices=["autocast", "master", "fp32"], default="autocast")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    return parser.parse_args()


class Report:
    """What has been found out so far; printed once, at the end or when time is up."""

    def __init__(self, options):
        self.lock = threading.Lock()
        self.printed = False
        self.step_seconds = []
        self.phase = "starting"
        self.line = {"bench": "peer", "peer": "torch", "model": options.model,
                     "mode": "eager" if options.eager else "compiled (%s)" % options.compile_mode,
                     "attention": options.attention, "precision": options.precision,
                     "micro_batch": options.micro, "rounds": options.rounds}

    def finish(self, extra=None):
        """Prints; returns the exit code. Only the first call counts."""
        with self.lock:
            if self.printed:
                return 0
            self.printed = True
            self.line.update(extra or {})
            times = list(self.step_seconds)
            if times:
                self.add_times(times)
            self.line.pop("conventions", None)
            if not times and "skipped" not in self.line:
                self.line.setdefault("failed", "no step was measured; it was %s" % self.phase)
            self.line["wall_seconds"] = round(time.monotonic() - STARTED, 1)
            print(json.dumps(self.line), flush=True)
        return 2 if "skipped" in self.line else 0 if times else 1

    def add_times(self, times):
        median = statistics.median(times)
        rate = self.line["tokens_per_step"] / median
        self.line.update(steps=len(times), step_ms=median * 1e3, fastest_step_ms=min(times) * 1e3,
                         slowest_step_ms=max(times) * 1e3, tokens_per_second=rate)
        self.line["mfu"] = {
            name: {"flop_per_token": flop, "tflop_per_s": flop * rate / 1e12,
                   "of_measured_peak": ratio(flop * rate, self.line.get("measured_peak_tflop_per_s")),
                   "of_datasheet_peak": ratio(flop * rate, self.line.get("datasheet_peak_tflop_per_s"))}
            for name, flop in self.line["conventions"].items()}


def ratio(flop_per_second, peak_tflop_per_second):
    return flop_per_second / (peak_tflop_per_second * 1e12) if peak_tflop_per_second else None


def datasheet_peak(name):
    """Dense bf16 TFLOP/s of cards whose datasheet is known, as lockstep has them."""
    if ("H100" in name or "H200" in name) and "PCIe" not in name and "NVL" not in name:
        return 989.5
    return 312.0 if "A100" in name else None


def make_model(torch, sizes):
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            width = sizes.width
            self.attention_norm = nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)
            self.mlp_norm = nn.LayerNorm(width)
            self.up = nn.Linear(width, 4 * width)
            self.down = nn.Linear(4 * width, width)

        def forward(self, x):
            batch, length, width = x.shape
            heads = self.qkv(self.attention_norm(x)).view(batch, length, 3, sizes.heads, width // sizes.heads)
            q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
            attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
            return x + self.down(functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))

    class Gpt2(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(sizes.vocab, sizes.width)
            self.positions = nn.Embedding(sizes.context, sizes.width)
            self.blocks = nn.ModuleList(Block() for _ in range(sizes.layers))
            self.norm = nn.LayerNorm(sizes.width)

        def draw_weights(self):  # on the device, where that is quick
            self.apply(self.initialize)
            for block in self.blocks:  # the branches' last products, as GPT-2 has it
                for linear in (block.out, block.down):
                    nn.init.normal_(linear.weight, 0.0, 0.02 / math.sqrt(2 * sizes.layers))

        @staticmethod
        def initialize(module):
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, 0.0, 0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

        def forward(self, inputs, targets):
            x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.norm(x), self.tokens.weight)  # tied
            return functional.cross_entropy(logits.view(-1, sizes.vocab).float(), targets.view(-1))

    return Gpt2()


class Optimizer:
    """AdamW behind a clipped gradient, on the weights themselves or on fp32 masters of them."""

    def __init__(self, torch, model, masters, fused):
        self.torch = torch
        self.weights = list(model.parameters())
        self.targets = self.weights
        if masters:
            self.targets = [p.detach().float().requires_grad_() for p in self.weights]
            for target in self.targets:
                target.grad = torch.zeros_like(target)
        groups = [{"params": [p for p in self.targets if (p.dim() >= 2) == decays],
                   "weight_decay": 0.1 if decays else 0.0} for decays in (True, False)]
        self.adamw = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), eps=1e-8, fused=fused)

    def step(self):
        masters = self.targets is not self.weights
        if masters:
            self.torch._foreach_copy_([p.grad for p in self.targets], [p.grad for p in self.weights])
        self.torch.nn.utils.clip_grad_norm_(self.targets, 1.0)
        self.adamw.step()
        for weight in self.weights:
            weight.grad = None
        if masters:
            with self.torch.no_grad():
                self.torch._foreach_copy_(self.weights, self.targets)


class Clock:
    """Points in the work of the device; of the host on a CPU."""

    def __init__(self, torch, on_gpu):
        self.torch, self.on_gpu = torch, on_gpu

    def mark(self):
        if not self.on_gpu:
            return time.perf_counter()
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self, mark):
        if self.on_gpu:
            mark.synchronize()

    def seconds(self, first, last):
        return first.elapsed_time(last) * 1e-3 if self.on_gpu else last - first


def measure_peak(torch, device, clock):
    """TFLOP/s of a large square product of random bf16 matrices."""
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    best = math.inf
    for _ in range(4):
        first = clock.mark()
        for _ in range(10):
            a @ b
        last = clock.mark()
        clock.wait(last)
        best = min(best, clock.seconds(first, last) / 10)
    return 2 * size**3 / best / 1e12


def attention_kernel(torch, options):
    """A context in which attention runs by the kernel asked for."""
    import contextlib
    if options.attention == "any" or options.device == "cpu":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel
    return sdpa_kernel(SDPBackend.FLASH_ATTENTION if options.attention == "flash" else SDPBackend.CUDNN_ATTENTION)


def describe(torch, report, options, model, sizes, clock):
    parameters = sum(p.numel() for p in model.parameters())
    scores = sizes.layers * sizes.width * sizes.context
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    report.line.update(
        device_name=name, torch=torch.__version__, cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version() if options.device == "cuda" else None,
        parameters=parameters, context=sizes.context, warmup=options.warmup,
        tokens_per_step=options.micro * options.rounds * sizes.context,
        conventions={"6N+6LCT causal": 6 * parameters + 6 * scores, "PaLM 6N+12LCT": 6 * parameters + 12 * scores},
        measured_peak_tflop_per_s=measure_peak(torch, options.device, clock),
        datasheet_peak_tflop_per_s=datasheet_peak(name))


def train(torch, options, report):
    on_gpu = options.device == "cuda"
    sizes = MODELS[options.model]
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    clock = Clock(torch, on_gpu)
    model = make_model(torch, sizes).to(options.device)
    model.draw_weights()
    masters = options.precision == "master"
    if masters:
        model = model.bfloat16()
    report.phase = "measuring the peak"
    describe(torch, report, options, model, sizes, clock)
    optimizer = Optimizer(torch, model, masters, fused=on_gpu)
    step_model = model if options.eager else torch.compile(model, mode=options.compile_mode)
    tokens = torch.randint(0, sizes.vocab, (8, options.micro, sizes.context + 1), device=options.device)
    data = [(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) for batch in tokens]
    autocast = options.precision == "autocast"

    def step(number):
        loss = None
        for round_ in range(options.rounds):
            inputs, targets = data[(number * options.rounds + round_) % len(data)]
            with torch.autocast(options.device, dtype=torch.bfloat16, enabled=autocast):
                loss = step_model(inputs, targets)
            (loss / options.rounds).backward()
        optimizer.step()
        return loss

    losses = []
    with attention_kernel(torch, options):
        report.phase = "warming up" if options.eager else "compiling and warming up"
        for number in range(options.warmup):
            losses.append(float(step(number).detach()))
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        report.phase = "measuring"
        marks = [clock.mark()]
        for number in range(options.steps):
            losses.append(step(options.warmup + number).detach())
            marks.append(clock.mark())
            if len(marks) > 2:  # the host stays at most a step ahead, so that time can be kept
                clock.wait(marks[-2])
                report.step_seconds.append(clock.seconds(marks[-3], marks[-2]))
        clock.wait(marks[-1])
        report.step_seconds.append(clock.seconds(marks[-2], marks[-1]))
    memory = {}
    if on_gpu:
        memory = {"peak_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()}
    return dict(memory, first_loss=float(losses[0]), last_loss=float(losses[-1]))


def main():
    options = parse()
    report = Report(options)
    try:
        import torch
    except ImportError as error:
        return report.finish({"skipped": "PyTorch is not installed: %s" % error})
    if options.device == "cuda" and not torch.cuda.is_available():
        return report.finish({"skipped": "PyTorch %s finds no CUDA device" % torch.__version__})

    def time_is_up():
        os._exit(report.finish({"stopped": "after %g s, while %s" % (options.seconds, report.phase)}))

    watch = threading.Timer(max(options.seconds - (time.monotonic() - STARTED), 0.1), time_is_up)
    watch.daemon = True
    watch.start()
    try:
        result = train(torch, options, report)
    except Exception as error:  # whatever PyTorch raises is a result here: it must not end the whole benchmark
        return report.finish({"failed": "%s: %s" % (type(error).__name__, str(error).splitlines()[0])})
    finally:
        watch.cancel()
    return report.finish(result)


if __name__ == "__main__":
    sys.exit(main())
