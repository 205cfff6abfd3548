#!/usr/bin/env python3
"""The leap of the loss in the first steps of configs/quickstart.yaml when its warm-up is short, in PyTorch.

    python3 bench/peers/early_leap.py TEXT [--warmup 5] [--rate 2e-3] [--attention-rate 1] [--z-loss 0]
                                       [--beta2 0.99] [--steps 30] [--random-vocabulary 0]

The model, its initialisation, AdamW, clipping and schedule of the quickstart, written out with torch functions.
A line a step: loss, gradient norm, root mean square of the residual stream behind the last block, the part of
the final features that is common to all positions, largest logit, largest attention score. At a leap, the
loss of the same batch with one group of tensors put back to what it was before the step.
With --random-vocabulary V the text is not read: tokens are independent and uniform over V ids.
"""
import argparse
import math

import torch
import torch.nn.functional as F

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 6, 192, 128, 32
GROUPS = {"token table": ("wte",), "positions": ("wpe",), "norms": (".ln", "lnf"),
          "attention": (".qkv", ".out"), "mlp": (".up", ".down")}


def make_weights(vocabulary):
    generator = torch.Generator().manual_seed(1337)

    def normal(*shape, std=0.02):
        return torch.randn(*shape, generator=generator) * std

    w = {"wte": normal(vocabulary, WIDTH), "wpe": normal(CONTEXT, WIDTH)}
    residual = 0.02 / math.sqrt(2 * LAYERS)
    for i in range(LAYERS):
        for name, out, into, std in ((".qkv", 3 * WIDTH, WIDTH, 0.02), (".out", WIDTH, WIDTH, residual),
                                     (".up", 4 * WIDTH, WIDTH, 0.02), (".down", WIDTH, 4 * WIDTH, residual)):
            w[f"{i}{name}.w"] = normal(out, into, std=std)
            w[f"{i}{name}.b"] = torch.zeros(out)
        for norm in (".ln1", ".ln2"):
            w[f"{i}{norm}.w"], w[f"{i}{norm}.b"] = torch.ones(WIDTH), torch.zeros(WIDTH)
    w["lnf.w"], w["lnf.b"] = torch.ones(WIDTH), torch.zeros(WIDTH)
    return {name: value.requires_grad_() for name, value in w.items()}


def forward(w, tokens, seen=None):
    batch = tokens.shape[0]

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), w[name + ".w"], w[name + ".b"], 1e-5)

    def linear(x, name):
        return F.linear(x, w[name + ".w"], w[name + ".b"])

    x = w["wte"][tokens] + w["wpe"]
    scores = 0.0
    for i in range(LAYERS):
        parts = linear(norm(x, f"{i}.ln1"), f"{i}.qkv").split(WIDTH, -1)
        q, k, v = (t.view(batch, CONTEXT, HEADS, -1).transpose(1, 2) for t in parts)
        if seen is not None:
            scores = max(scores, float((q @ k.transpose(-1, -2)).detach().abs().max()) / math.sqrt(q.shape[-1]))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(mixed.transpose(1, 2).reshape(batch, CONTEXT, WIDTH), f"{i}.out")
        x = x + linear(F.gelu(linear(norm(x, f"{i}.ln2"), f"{i}.up"), approximate="tanh"), f"{i}.down")
    features = norm(x, "lnf")
    logits = features @ w["wte"].T
    if seen is not None:
        with torch.no_grad():
            seen.update(stream=float(x.square().mean().sqrt()), scores=scores, logit=float(logits.abs().max()),
                        common=float(features.mean((0, 1)).norm() / features.square().sum(-1).mean().sqrt()))
    return logits


def loss_of(w, inputs, targets):
    with torch.no_grad():
        return float(F.cross_entropy(forward(w, inputs).flatten(0, 1), targets.flatten()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--attention-rate", type=float, default=1.0)
    parser.add_argument("--z-loss", type=float, default=0.0)
    parser.add_argument("--beta2", type=float, default=0.99)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--random-vocabulary", type=int, default=0)
    options = parser.parse_args()
    vocabulary = options.random_vocabulary or 256
    text = None
    if not options.random_vocabulary:
        with open(options.text, "rb") as file:
            text = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).long()
    w = make_weights(vocabulary)
    groups = []
    for attention in (False, True):
        for decays in (False, True):
            members = [v for name, v in w.items() if (v.dim() > 1) == decays and
                       any(part in name for part in GROUPS["attention"]) == attention]
            groups.append({"params": members, "weight_decay": 0.1 if decays else 0.0,
                           "factor": options.attention_rate if attention else 1.0})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, options.beta2), eps=1e-8)
    before, last = None, math.inf
    for step in range(1, options.steps + 1):
        rate = options.rate * min(1.0, step / options.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        generator = torch.Generator().manual_seed(step)
        if text is None:
            rows = torch.randint(0, vocabulary, (BATCH, CONTEXT + 1), generator=generator)
        else:
            begins = torch.randint(0, len(text) // CONTEXT - 1, (BATCH,), generator=generator) * CONTEXT
            rows = torch.stack([text[b:b + CONTEXT + 1] for b in begins])
        inputs, targets = rows[:, :-1], rows[:, 1:]
        seen = {}
        logits = forward(w, inputs, seen)
        entropy = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        (entropy + options.z_loss * torch.logsumexp(logits, -1).square().mean()).backward()
        norm = float(torch.nn.utils.clip_grad_norm_(list(w.values()), 1.0))
        loss = float(entropy.detach())
        print(f"step {step:3} loss {loss:.3f} norm {norm:7.2f} stream {seen['stream']:.2f} "
              f"common {seen['common']:.2f} logit {seen['logit']:.2f} score {seen['scores']:.1f}", flush=True)
        if before is not None and loss > last + 0.25:
            for name, parts in GROUPS.items():
                mixed = {n: before[n] if any(part in n for part in parts) else v for n, v in w.items()}
                print(f"         without the step of {name:12} {loss_of(mixed, inputs, targets):.3f}", flush=True)
        before, last = {name: value.detach().clone() for name, value in w.items()}, loss
        optimizer.step()


if __name__ == "__main__":
    main()
