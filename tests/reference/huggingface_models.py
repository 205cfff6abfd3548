"""Small models of Hugging Face's Transformers, with random weights, for the scripts beside this file."""
import torch
import transformers

CONTEXT, VOCAB, SEQUENCES = 12, 29, 2

_GPT2 = dict(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=8, n_layer=2, n_head=2, bos_token_id=None,
             eos_token_id=None)
_LLAMA = dict(vocab_size=VOCAB, max_position_embeddings=64, hidden_size=8, intermediate_size=12,
              num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, bos_token_id=None,
              eos_token_id=None, pad_token_id=None)
_BERT = dict(vocab_size=VOCAB, max_position_embeddings=CONTEXT, hidden_size=8, intermediate_size=12,
             num_hidden_layers=2, num_attention_heads=2, pad_token_id=None)
_LLAMA3 = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0,
               high_freq_factor=4.0, original_max_position_embeddings=16)


def _llama(**changes):
    return transformers.LlamaForCausalLM, transformers.LlamaConfig(**{**_LLAMA, **changes})


def _qwen2(**changes):
    return transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**{**_LLAMA, **changes})


def _qwen3(**changes):
    return transformers.Qwen3ForCausalLM, transformers.Qwen3Config(**{**_LLAMA, "head_dim": 6, **changes})


def _mistral(**changes):
    return transformers.MistralForCausalLM, transformers.MistralConfig(**{**_LLAMA, **changes})


def _gpt2(**changes):
    return transformers.GPT2LMHeadModel, transformers.GPT2Config(**{**_GPT2, **changes})


def _bert(**changes):
    return transformers.BertForMaskedLM, transformers.BertConfig(**{**_BERT, **changes})


# Models that Lockstep's keys can express.
EQUAL = {
    "gpt2": lambda: _gpt2(),
    "gpt2_gelu_inner_eps": lambda: _gpt2(activation_function="gelu", n_inner=20, layer_norm_epsilon=1e-3),
    "gpt2_relu_untied": lambda: _gpt2(activation_function="relu", tie_word_embeddings=False),
    "llama": lambda: _llama(),
    "llama_eps_theta_tied": lambda: _llama(rms_norm_eps=1e-3, tie_word_embeddings=True,
                                           rope_parameters=dict(rope_type="default", rope_theta=100.0)),
    "llama_llama3": lambda: _llama(rope_parameters=_LLAMA3),
    "llama_linear": lambda: _llama(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
    "llama_biases_one_kv_head": lambda: _llama(attention_bias=True, mlp_bias=True, num_key_value_heads=1),
    "llama_head_dim_geglu": lambda: _llama(head_dim=6, hidden_act="gelu_pytorch_tanh"),
    "qwen2": lambda: _qwen2(),
    "qwen2_tied_sliding": lambda: _qwen2(tie_word_embeddings=True, use_sliding_window=True,
                                         sliding_window=3, max_window_layers=1),
    "qwen3": lambda: _qwen3(),
    "qwen3_tied_layer_types": lambda: _qwen3(tie_word_embeddings=True, use_sliding_window=True,
                                             sliding_window=4,
                                             layer_types=["sliding_attention", "full_attention"]),
    "mistral_sliding": lambda: _mistral(sliding_window=5),
    "mistral_full": lambda: _mistral(sliding_window=None),
    "bert": lambda: _bert(),
    "bert_relu": lambda: _bert(hidden_act="relu", layer_norm_eps=1e-3),
}

# Of a family that can be expressed, but not with this setting: the field that must be named.
REFUSED_FIELDS = {
    "gpt2_inverse_layer": (lambda: _gpt2(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
    "gpt2_unscaled": (lambda: _gpt2(scale_attn_weights=False), "scale_attn_weights"),
    "llama_attention_bias": (lambda: _llama(attention_bias=True), "attention_bias"),
    "llama_dynamic": (lambda: _llama(head_dim=4, rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)),
                      "dynamic"),
    "llama_yarn": (lambda: _llama(rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=2.0)), "yarn"),
    "llama_relu": (lambda: _llama(hidden_act="relu"), "hidden_act"),
    "qwen3_biases": (lambda: _qwen3(attention_bias=True), "attention_bias"),
    "bert_decoder": (lambda: (transformers.BertLMHeadModel, transformers.BertConfig(**_BERT, is_decoder=True)),
                     "is_decoder"),
}

# Families that cannot be expressed; saved without weights, since the type alone decides.
REFUSED_TYPES = ["gemma", "gemma2", "gpt_neox", "phi", "phi3", "opt", "olmo2", "granite", "cohere", "falcon",
                 "stablelm", "starcoder2", "smollm3", "mixtral", "qwen2_moe", "roberta", "bloom", "gptj"]


def build(maker):
    """The model in fp64 with weights rounded to fp32, none of them at its initial zero or one."""
    kind, config = maker()
    torch.manual_seed(7)
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.double()


def tokens(count, seed=3):
    return torch.randint(0, VOCAB, (count,), generator=torch.Generator().manual_seed(seed))


def batch(model):
    """Inputs and targets [SEQUENCES, CONTEXT]: the next token, for a masked model any token."""
    stream = tokens(SEQUENCES * CONTEXT + 1)
    return stream[:-1].view(SEQUENCES, CONTEXT), stream[1:].view(SEQUENCES, CONTEXT)


def loss(model, inputs, targets):
    logits = model(inputs, use_cache=False).logits if model.config.model_type != "bert" else model(inputs).logits
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
