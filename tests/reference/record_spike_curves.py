"""Records loss and gradient norm of small PyTorch runs in which something leaps.

    python3 tests/reference/record_spike_curves.py

writes tests/reference/recorded/spikes.json for the spike guard's test. No guard is at work in these
runs, so what leaps is trained on. Each curve names the first step that leaps, whether the leap stays,
and what is behind it: a batch of garbage, a learning rate that is far too high from some step on, or
data that change for good. Written with torch 2.x on a CPU; other versions leap at the same steps.
"""

import json
import pathlib
import random

import torch
from torch import nn

CONTEXT, BATCH, VOCAB, WIDTH = 16, 8, 64, 32
STEPS, CHANGE = 240, 201  # what leaps does so at step CHANGE
OUTPUT = pathlib.Path(__file__).parent / "recorded" / "spikes.json"


class Model(nn.Module):
    """A GPT of two blocks."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(CONTEXT))
        return self.head(self.blocks(x, mask=self.mask, is_causal=True))


def sequences(rng, count, first, last):
    """Arithmetic sequences of ids in [first, last): easy to learn, but not to a loss of 0."""
    ids = []
    while len(ids) < count:
        stride, value = 1 + 2 * rng.randrange(3), rng.randrange(last - first)
        for _ in range(8 + rng.randrange(12)):
            ids.append(first + value)
            value = (value + stride) % (last - first)
    return ids[:count]


def train(ids, rates):
    """Loss and gradient norm of each step; rates[i] is the learning rate of step i + 1."""
    torch.manual_seed(5)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    curve = []
    for step, rate in enumerate(rates):
        begin = step * BATCH * CONTEXT
        window = torch.tensor(ids[begin : begin + BATCH * CONTEXT + 1])
        optimizer.param_groups[0]["lr"] = rate
        logits = model(window[:-1].view(BATCH, CONTEXT))
        loss = nn.functional.cross_entropy(logits.view(-1, VOCAB), window[1:])
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        curve.append([float(f"{value.item():.6g}") for value in (loss, norm)])
    return curve


def main():
    rng = random.Random(11)
    tokens = BATCH * CONTEXT
    plain = sequences(rng, STEPS * tokens + 1, 0, VOCAB)
    steady = [3e-3] * STEPS
    garbage = list(plain)
    garbage[(CHANGE - 1) * tokens : CHANGE * tokens] = [rng.randrange(VOCAB) for _ in range(tokens)]
    other = sequences(rng, (CHANGE - 1) * tokens, 0, VOCAB // 2)
    other += sequences(rng, (STEPS - CHANGE + 1) * tokens + 1, VOCAB // 2, VOCAB)
    runs = [("a batch of garbage", False, garbage, steady), ("data that change for good", True, other, steady)]
    for rate in (0.3, 1.0):  # the update of the step before is what the leap shows
        rates = steady[: CHANGE - 2] + [rate] * (STEPS - CHANGE + 2)
        runs.append((f"learning rate {rate} from step {CHANGE - 1} on", True, plain, rates))
    curves = [
        json.dumps({"name": name, "leaps_at": CHANGE, "stays": stays, "steps": train(ids, rates)})
        for name, stays, ids, rates in runs
    ]
    OUTPUT.write_text("[\n" + ",\n".join(curves) + "\n]\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
