#!/usr/bin/env python3
"""Records what torch.optim.Muon makes of the models of make_pytorch_reference.py: the values that
muon_curve_test compares with.

    python3 tests/reference/make_muon_reference.py tests/reference/recorded

The stock class iterates in bf16 whatever it is given; here its function is replaced by the same loop in
the type of the parameters, fp64. Matrices are given as [out, in], with query, key and value apart;
everything else is torch.optim.AdamW's. For every case: CASE.yaml, and CASE.json with loss, norm and
coefficient of each step, the plain loss at the end, and the final weights' sums of squares. The initial
weights are those of the case without Muon. muon_matrices.json: single matrices after the loop in fp64
and in the stock bf16. Needs PyTorch 2.9 or newer, which has the class.
"""
import json
import pathlib
import sys

import torch
import torch.nn.functional as F
import torch.optim._muon as torch_muon

import make_pytorch_reference as base

STEPS, WARMUP = 30, 5
MUON_RATE, ADAMW_RATE, MINIMUM, DECAY, MOMENTUM = 0.02, 4e-3, 1e-3, 0.1, 0.95

CASES = {
    "gpt_muon": dict(of="gpt_pre", adjust="original", nesterov=True, ns_steps=5),
    "llama_muon": dict(of="llama", adjust="match_rms_adamw", nesterov=False, ns_steps=4),
}


def newton_schulz(grad, ns_coefficients, ns_steps, eps):
    a, b, c = ns_coefficients
    x = grad
    if grad.size(0) > grad.size(1):
        x = x.T
    x = x / x.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if grad.size(0) > grad.size(1) else x


def initial_weights(case):
    seed = list(base.CASES).index(case)
    generator = torch.Generator().manual_seed(seed)
    if base.CASES[case]["family"] == "llama":
        return base.llama_weights(generator)
    weights = base.gpt_weights(generator)
    weights["ln_f.weight"] = 1 + torch.randn(base.WIDTH, generator=generator) * 0.1
    weights["ln_f.bias"] = torch.randn(base.WIDTH, generator=generator) * 0.02
    return weights


def is_matrix(name):
    return (name.startswith("h.") or ".layers." in name) and name.endswith(
        ("attn.weight", "proj.weight", "fc.weight"))


def split(weights):
    """Leaves: matrices of Muon as [out, in], and the rest."""
    matrices, rest = {}, {}
    for name, value in weights.items():
        value = value.to(torch.float32).to(torch.float64)
        if not is_matrix(name):
            rest[name] = value.requires_grad_()
        elif name.endswith("c_attn.weight"):
            for part, rows in zip("qkv", value.T.split(base.WIDTH)):
                matrices[f"{name}.{part}"] = rows.contiguous().requires_grad_()
        else:
            own = value.T if name.startswith("h.") else value
            matrices[name] = own.contiguous().requires_grad_()
    return matrices, rest


def joined(matrices, rest):
    weights = dict(rest)
    for name, value in matrices.items():
        if name.endswith(".q"):
            whole = name[:-2]
            weights[whole] = torch.cat([matrices[f"{whole}.{part}"] for part in "qkv"]).T
        elif name.startswith("h.") and name.endswith(".weight"):
            weights[name] = value.T
        elif name.endswith(".weight"):
            weights[name] = value
    return weights


def rate_at(t, peak):
    if t <= WARMUP:
        return peak * t / WARMUP
    return peak + (MINIMUM - peak) * (t - WARMUP) / (STEPS - WARMUP)


def train(case, options, tokens):
    settings = base.CASES[options["of"]]
    logits = base.llama_logits if settings["family"] == "llama" else base.gpt_logits
    matrices, rest = split(initial_weights(options["of"]))
    muon = torch.optim.Muon(list(matrices.values()), lr=MUON_RATE, weight_decay=DECAY, momentum=MOMENTUM,
                            nesterov=options["nesterov"], ns_steps=options["ns_steps"],
                            adjust_lr_fn=options["adjust"])
    decayed = [v for v in rest.values() if v.dim() > 1]
    kept = [v for v in rest.values() if v.dim() <= 1]
    adamw = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY}, {"params": kept, "weight_decay": 0.0}],
                              lr=ADAMW_RATE, betas=base.BETAS, eps=base.EPS)

    def loss_of(step, smoothing):
        inputs, targets = base.batch_of(tokens, step)
        out = logits(joined(matrices, rest), inputs, settings["norm_position"])
        return F.cross_entropy(out.flatten(0, 1), targets.flatten(), label_smoothing=smoothing)

    rows = []
    for step in range(STEPS):
        for optimizer, peak in ((muon, MUON_RATE), (adamw, ADAMW_RATE)):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step + 1, peak)
            optimizer.zero_grad()
        loss = loss_of(step, settings["smoothing"])
        loss.backward()
        everything = list(matrices.values()) + list(rest.values())
        norm = float(torch.nn.utils.clip_grad_norm_(everything, settings["threshold"]))
        muon.step()
        adamw.step()
        rows.append({"step": step + 1, "loss": float(loss.detach()), "grad_norm": norm,
                     "learning_rate": rate_at(step + 1, MUON_RATE),
                     "clip_coefficient": min(1.0, settings["threshold"] / (norm + 1e-6))})
    with torch.no_grad():
        final = float(loss_of(0, 0.0))
    squares = {name: float(value.detach().square().sum()) for name, value in joined(matrices, rest).items()}
    return rows, final, squares


def config_text(options):
    settings = dict(base.CASES[options["of"]])
    sizes = f"kv_heads: {base.KV_HEADS}, ffn_width: {base.LLAMA_FFN}, " if settings["family"] == "llama" else ""
    return f"""# Written by make_muon_reference.py; the test adds the paths with --set.
run: {{name: reference, seed: 1}}
model: {{family: {settings["family"]}, layers: {base.LAYERS}, heads: {base.HEADS}, {sizes}width: {base.WIDTH}, context: {base.CONTEXT},
        vocab: {base.VOCAB}, norm_position: {settings["norm_position"]}}}
data: {{train: tokens.bin, validation: tokens.bin, order: sequential}}
batch: {{global: {base.GLOBAL}, micro: {base.MICRO}}}
train: {{steps: {STEPS}, validate_every: {STEPS}, validate_batches: 1}}
loss: {{label_smoothing: {settings["smoothing"]}}}
optimizer:
  name: muon
  learning_rate: {MUON_RATE}
  betas: [{base.BETAS[0]}, {base.BETAS[1]}]
  eps: 1.0e-8
  weight_decay: {DECAY}
  muon: {{momentum: {MOMENTUM}, nesterov: {str(options["nesterov"]).lower()}, ns_steps: {options["ns_steps"]}, adjust: {options["adjust"]}, adamw_learning_rate: {ADAMW_RATE}}}
schedule: {{name: linear, warmup_steps: {WARMUP}, total_steps: {STEPS}, min_learning_rate: {MINIMUM}}}
clip: {{mode: global_norm, threshold: {settings["threshold"]}}}
precision: {{compute: fp32}}
"""


def single_matrices(stock):
    """[rows, cols], the matrix, NS in fp64 and in the stock bf16; values rounded to fp32."""
    generator = torch.Generator().manual_seed(11)
    records = []
    for rows, cols in ((3, 2), (8, 24), (24, 8), (16, 16), (1, 12), (12, 1)):
        grad = torch.randn(rows, cols, generator=generator) * 10.0 ** float(torch.randint(-4, 3, (1,), generator=generator))
        coefficients = (3.4445, -4.7750, 2.0315)
        exact = newton_schulz(grad.to(torch.float64), coefficients, 5, 1e-7)
        records.append({"rows": rows, "cols": cols, "matrix": grad.flatten().tolist(), "exact": exact.flatten().tolist(),
                        "bf16": stock(grad, coefficients, 5, 1e-7).to(torch.float32).flatten().tolist()})
    return records


def main():
    output = pathlib.Path(sys.argv[1])
    torch.set_num_threads(1)
    tokens = base.make_tokens(output / "tokens.bin")
    stock = torch_muon._zeropower_via_newtonschulz
    (output / "muon_matrices.json").write_text(json.dumps(single_matrices(stock)) + "\n")
    torch_muon._zeropower_via_newtonschulz = newton_schulz
    for name, options in CASES.items():
        (output / f"{name}.yaml").write_text(config_text(options))
        rows, final, squares = train(name, options, tokens)
        record = {"torch": torch.__version__, "dtype": "float64", "steps": rows, "final_loss": final, "squares": squares}
        (output / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        print(f"{name}: loss {rows[0]['loss']:.4f} -> {rows[-1]['loss']:.4f}, "
              f"clipped {sum(r['clip_coefficient'] < 1 for r in rows)} of {STEPS}")


if __name__ == "__main__":
    main()
