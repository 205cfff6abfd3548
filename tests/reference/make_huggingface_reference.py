#!/usr/bin/env python3
"""Records what Hugging Face's Transformers makes of small models, for foreign_models_test.

    python3 tests/reference/make_huggingface_reference.py tests/reference/recorded/huggingface

For every case it writes CASE/config.json and CASE/model.safetensors as save_pretrained() does, and
CASE/reference.safetensors: the gradients by name (fp32, of the loss in fp64); reference.json holds the
losses. defaults.json holds what each class of configuration has when nothing is given. Needs
torch and transformers; the tests only read what is recorded.
"""
import json
import pathlib
import sys

import transformers
from safetensors.torch import save_file

import huggingface_models as models

RECORDED = ["gpt2", "llama_llama3", "qwen2_tied_sliding", "qwen3", "mistral_sliding", "bert"]


def main(directory):
    losses = {}
    for name in RECORDED:
        model = models.build(models.EQUAL[name])
        folder = directory / name
        folder.mkdir(parents=True, exist_ok=True)
        inputs, targets = models.batch(model)
        loss = models.loss(model, inputs, targets)
        loss.backward()
        losses[name] = loss.item()
        gradients = {key: value.grad.float().contiguous() for key, value in model.named_parameters()}
        save_file(gradients, folder / "reference.safetensors", metadata={"format": "pt"})
        model.float().save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
    classes = [transformers.BertConfig, transformers.GPT2Config, transformers.LlamaConfig,
               transformers.MistralConfig, transformers.Qwen2Config, transformers.Qwen3Config]
    defaults = {each.model_type: each().to_dict() for each in classes}
    (directory / "defaults.json").write_text(json.dumps(defaults, indent=1) + "\n")
    reference = {"transformers": transformers.__version__, "losses": losses,
                 "tokens": models.tokens(models.SEQUENCES * models.CONTEXT + 1).tolist()}
    (directory / "reference.json").write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
