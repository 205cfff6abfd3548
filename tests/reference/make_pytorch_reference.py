#!/usr/bin/env python3
"""Records what PyTorch, in fp64, makes of small models: the values that pytorch_curve_test compares with.

    python3 tests/reference/make_pytorch_reference.py tests/reference/recorded

For every case it writes CASE.safetensors (initial weights, fp32, Hugging Face names), CASE.yaml (the
training configuration, without paths) and CASE.json (per step: loss, grad_norm, clip_coefficient,
learning_rate, and the plain validation loss at the end); tokens.bin (uint16) is shared. The models
are written out with torch functions from their papers, so that nothing is shared with Lockstep but
the formulas. Needs Debian's python3-torch; the tests only read what is recorded.
"""
import json
import math
import pathlib
import struct
import sys

import torch
import torch.nn.functional as F

STEPS, GLOBAL, MICRO, CONTEXT, VOCAB = 50, 8, 2, 16, 61
LEARNING_RATE, MINIMUM, WARMUP, BETAS, EPS, DECAY = 4e-3, 4e-4, 7, (0.9, 0.95), 1e-8, 0.1

CASES = {
    "gpt_pre": dict(family="gpt", norm_position="pre", smoothing=0.1, threshold=1.0),
    "gpt_post": dict(family="gpt", norm_position="post", smoothing=0.0, threshold=0.8),
    "llama": dict(family="llama", norm_position="pre", smoothing=0.05, threshold=1.0),
}
LAYERS, HEADS, WIDTH = 2, 4, 32
KV_HEADS, LLAMA_FFN = 2, 64
HEAD = WIDTH // HEADS


def write_safetensors(path, tensors):
    header, offset, blobs = {}, 0, []
    for name, value in tensors.items():
        data = value.to(torch.float32).contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        blobs.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def make_tokens(path):
    """A text with structure: a noisy walk, so that 50 steps learn something."""
    generator = torch.Generator().manual_seed(5)
    value, tokens = 0, []
    for noise in torch.randint(0, 100, (4000,), generator=generator).tolist():
        value = (value * 3 + 7) % VOCAB if noise < 80 else noise % VOCAB
        tokens.append(value)
    path.write_bytes(struct.pack(f"<{len(tokens)}H", *tokens))
    return torch.tensor(tokens)


def gpt_weights(generator):
    def normal(*shape, std=0.02):
        return torch.randn(*shape, generator=generator) * std

    w = {"wte.weight": normal(VOCAB, WIDTH, std=0.1), "wpe.weight": normal(CONTEXT, WIDTH, std=0.05)}
    for i in range(LAYERS):
        p = f"h.{i}."
        for norm in ("ln_1", "ln_2"):
            w[p + norm + ".weight"] = 1 + normal(WIDTH, std=0.1)
            w[p + norm + ".bias"] = normal(WIDTH)
        # Conv1D: [in, out]
        for name, rows, cols in (("attn.c_attn", WIDTH, 3 * WIDTH), ("attn.c_proj", WIDTH, WIDTH),
                                 ("mlp.c_fc", WIDTH, 4 * WIDTH), ("mlp.c_proj", 4 * WIDTH, WIDTH)):
            w[p + name + ".weight"] = normal(rows, cols, std=0.1)
            w[p + name + ".bias"] = normal(cols)
    return w


def gpt_logits(w, tokens, norm_position):
    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), w[name + ".weight"], w[name + ".bias"], 1e-5)

    def linear(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    batch, length = tokens.shape

    def attention(x, p):
        q, k, v = linear(x, p + "attn.c_attn").split(WIDTH, dim=-1)
        q, k, v = (t.view(batch, length, HEADS, HEAD).transpose(1, 2) for t in (q, k, v))
        return linear(attend(q, k, v).transpose(1, 2).reshape(batch, length, WIDTH), p + "attn.c_proj")

    def mlp(x, p):
        return linear(F.gelu(linear(x, p + "mlp.c_fc"), approximate="tanh"), p + "mlp.c_proj")

    x = w["wte.weight"][tokens] + w["wpe.weight"][:length]
    for i in range(LAYERS):
        p = f"h.{i}."
        if norm_position == "pre":
            x = x + attention(norm(x, p + "ln_1"), p)
            x = x + mlp(norm(x, p + "ln_2"), p)
        else:
            x = norm(x + attention(x, p), p + "ln_1")
            x = norm(x + mlp(x, p), p + "ln_2")
    if norm_position == "pre":
        x = norm(x, "ln_f")
    return x @ w["wte.weight"].T


def attend(q, k, v):
    length = q.shape[-2]
    scores = q @ k.transpose(-1, -2) / math.sqrt(HEAD)
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ v


def llama_weights(generator):
    def normal(*shape, std=0.1):
        return torch.randn(*shape, generator=generator) * std

    w = {"model.embed_tokens.weight": normal(VOCAB, WIDTH)}
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        w[p + "input_layernorm.weight"] = 1 + normal(WIDTH)
        w[p + "post_attention_layernorm.weight"] = 1 + normal(WIDTH)
        w[p + "self_attn.q_proj.weight"] = normal(WIDTH, WIDTH)
        w[p + "self_attn.k_proj.weight"] = normal(KV_HEADS * HEAD, WIDTH)
        w[p + "self_attn.v_proj.weight"] = normal(KV_HEADS * HEAD, WIDTH)
        w[p + "self_attn.o_proj.weight"] = normal(WIDTH, WIDTH)
        w[p + "mlp.gate_proj.weight"] = normal(LLAMA_FFN, WIDTH)
        w[p + "mlp.up_proj.weight"] = normal(LLAMA_FFN, WIDTH)
        w[p + "mlp.down_proj.weight"] = normal(WIDTH, LLAMA_FFN)
    w["model.norm.weight"] = 1 + normal(WIDTH)
    w["lm_head.weight"] = normal(VOCAB, WIDTH)
    return w


def llama_logits(w, tokens, norm_position):
    del norm_position
    batch, length = tokens.shape

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w[name]

    frequencies = 10000.0 ** (-torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies[None]
    cosine, sine = (torch.cat([f(angles)] * 2, dim=-1) for f in (torch.cos, torch.sin))

    def rotate(x):
        half = HEAD // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
        return x * cosine + turned * sine

    def heads(x, name, count):
        return (x @ w[name].T).view(batch, length, count, HEAD).transpose(1, 2)

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm.weight")
        q = rotate(heads(h, p + "self_attn.q_proj.weight", HEADS))
        k = rotate(heads(h, p + "self_attn.k_proj.weight", KV_HEADS))
        v = heads(h, p + "self_attn.v_proj.weight", KV_HEADS)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        mixed = attend(q, k, v).transpose(1, 2).reshape(batch, length, WIDTH)
        x = x + mixed @ w[p + "self_attn.o_proj.weight"].T
        h = norm(x, p + "post_attention_layernorm.weight")
        gated = F.silu(h @ w[p + "mlp.gate_proj.weight"].T) * (h @ w[p + "mlp.up_proj.weight"].T)
        x = x + gated @ w[p + "mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ w["lm_head.weight"].T


def learning_rate(t):
    if t <= WARMUP:
        return LEARNING_RATE * t / WARMUP
    if t >= STEPS:
        return MINIMUM
    progress = (t - WARMUP) / (STEPS - WARMUP)
    return MINIMUM + 0.5 * (LEARNING_RATE - MINIMUM) * (1 + math.cos(math.pi * progress))


def batch_of(tokens, step):
    wrap = (len(tokens) - 1) // CONTEXT * CONTEXT
    begins = [(step * GLOBAL + i) * CONTEXT % wrap for i in range(GLOBAL)]
    inputs = torch.stack([tokens[b:b + CONTEXT] for b in begins])
    targets = torch.stack([tokens[b + 1:b + 1 + CONTEXT] for b in begins])
    return inputs, targets


def train(case, weights, logits, tokens):
    weights = {k: v.to(torch.float32).to(torch.float64).requires_grad_() for k, v in weights.items()}
    decayed = [v for v in weights.values() if v.dim() > 1]
    kept = [v for v in weights.values() if v.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY}, {"params": kept, "weight_decay": 0.0}],
                                  lr=LEARNING_RATE, betas=BETAS, eps=EPS)
    rows = []
    for step in range(STEPS):
        rate = learning_rate(step + 1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = batch_of(tokens, step)
        optimizer.zero_grad()
        loss = F.cross_entropy(logits(weights, inputs, case["norm_position"]).flatten(0, 1), targets.flatten(),
                               label_smoothing=case["smoothing"])
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(list(weights.values()), case["threshold"]))
        optimizer.step()
        rows.append({"step": step + 1, "loss": float(loss), "grad_norm": norm, "learning_rate": rate,
                     "clip_coefficient": min(1.0, case["threshold"] / (norm + 1e-6))})
    with torch.no_grad():
        inputs, targets = batch_of(tokens, 0)
        final = float(F.cross_entropy(logits(weights, inputs, case["norm_position"]).flatten(0, 1), targets.flatten()))
    return rows, final


def config_text(case):
    sizes = f"kv_heads: {KV_HEADS}, ffn_width: {LLAMA_FFN}, " if case["family"] == "llama" else ""
    return f"""# Written by make_pytorch_reference.py; the test adds the paths with --set.
run: {{name: reference, seed: 1}}
model: {{family: {case["family"]}, layers: {LAYERS}, heads: {HEADS}, {sizes}width: {WIDTH}, context: {CONTEXT},
        vocab: {VOCAB}, norm_position: {case["norm_position"]}}}
data: {{train: tokens.bin, validation: tokens.bin, order: sequential}}
batch: {{global: {GLOBAL}, micro: {MICRO}}}
train: {{steps: {STEPS}, validate_every: {STEPS}, validate_batches: 1}}
loss: {{label_smoothing: {case["smoothing"]}}}
optimizer: {{name: adamw, learning_rate: {LEARNING_RATE}, betas: [{BETAS[0]}, {BETAS[1]}], eps: 1.0e-8, weight_decay: {DECAY}}}
schedule: {{name: cosine, warmup_steps: {WARMUP}, total_steps: {STEPS}, min_learning_rate: {MINIMUM}}}
clip: {{mode: global_norm, threshold: {case["threshold"]}}}
precision: {{compute: fp32}}
"""


def main():
    output = pathlib.Path(sys.argv[1])
    output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tokens = make_tokens(output / "tokens.bin")
    for seed, (name, case) in enumerate(CASES.items()):
        generator = torch.Generator().manual_seed(seed)
        if case["family"] == "gpt":
            weights, logits = gpt_weights(generator), gpt_logits
            if case["norm_position"] == "pre":
                weights["ln_f.weight"] = 1 + torch.randn(WIDTH, generator=generator) * 0.1
                weights["ln_f.bias"] = torch.randn(WIDTH, generator=generator) * 0.02
        else:
            weights, logits = llama_weights(generator), llama_logits
        write_safetensors(output / f"{name}.safetensors", weights)
        (output / f"{name}.yaml").write_text(config_text(case))
        rows, final = train(case, weights, logits, tokens)
        record = {"torch": torch.__version__, "dtype": "float64", "steps": rows, "final_loss": final}
        (output / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        print(f"{name}: loss {rows[0]['loss']:.4f} -> {rows[-1]['loss']:.4f}, "
              f"clipped {sum(r['clip_coefficient'] < 1 for r in rows)} of {STEPS}")


if __name__ == "__main__":
    main()
