#include "runtime/interchange/write_foreign_config.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "core/error.h"
#include "runtime/interchange/foreign_check.h"
#include "runtime/interchange/foreign_model.h"

namespace lockstep::runtime {

namespace {

using models::Activation;
using models::Family;
using models::ModelConfig;
using models::RopeScalingKind;
using models::Task;
using nlohmann::ordered_json;

// A Llama with what only a relative of it has is that relative.
const char* model_type(const ModelConfig& model) {
  if (model.family == Family::kGpt) return "gpt2";
  if (model.family == Family::kBert) return "bert";
  if (model.bias == models::Bias::kQkv) return "qwen2";
  if (model.qk_norm) return "qwen3";
  return model.attention_window.empty() ? "llama" : "mistral";
}

// The function of a gated activation is that of its gate. elu has no name there.
const char* activation_name(const ModelConfig& model) {
  switch (model.activation) {
    case Activation::kGelu:
      return "gelu";
    case Activation::kGeluTanh:
    case Activation::kGeGlu:
      return model.family == Family::kGpt ? "gelu_new" : "gelu_pytorch_tanh";
    case Activation::kRelu:
      return "relu";
    case Activation::kLeakyRelu:
      return "leaky_relu";
    case Activation::kElu:
      return "elu";
    case Activation::kSilu:
    case Activation::kSwiGlu:
      return "silu";
  }
  core::fail_check(__FILE__, __LINE__, "activation", "unknown activation");
}

const char* dtype_name(core::DType dtype) {
  switch (dtype) {
    case core::DType::kBF16:
      return "bfloat16";
    case core::DType::kF16:
      return "float16";
    default:
      return "float32";
  }
}

ordered_json token(const std::optional<std::int64_t>& id) {
  return id ? ordered_json(*id) : ordered_json();
}

void add_gpt2(const ModelConfig& model, ordered_json& config) {
  config["n_positions"] = model.context;
  config["n_embd"] = model.width;
  config["n_layer"] = model.layers;
  config["n_head"] = model.heads;
  config["n_inner"] = model.ffn_width;
  config["activation_function"] = activation_name(model);
  for (const char* field : {"resid_pdrop", "embd_pdrop", "attn_pdrop"})
    config[field] = model.dropout;
  config["layer_norm_epsilon"] = model.norm_eps;
  config["initializer_range"] = model.init_std;
  config["scale_attn_weights"] = true;
  config["scale_attn_by_inverse_layer_idx"] = false;
  config["reorder_and_upcast_attn"] = false;
}

void add_sizes(const ModelConfig& model, ordered_json& config) {
  config["hidden_size"] = model.width;
  config["intermediate_size"] = model.ffn_width;
  config["num_hidden_layers"] = model.layers;
  config["num_attention_heads"] = model.heads;
  config["hidden_act"] = activation_name(model);
  config["max_position_embeddings"] = model.context;
  config["initializer_range"] = model.init_std;
}

void add_bert(const ModelConfig& model, ordered_json& config) {
  add_sizes(model, config);
  config["hidden_dropout_prob"] = model.dropout;
  config["attention_probs_dropout_prob"] = model.dropout;
  config["classifier_dropout"] = nullptr;
  config["type_vocab_size"] = model.token_types;
  config["layer_norm_eps"] = model.norm_eps;
  config["position_embedding_type"] = "absolute";
  if (model.task != Task::kClassification) return;
  config["problem_type"] = "single_label_classification";
  for (std::int64_t i = 0; i < model.classes; ++i) {
    const std::string label = fmt::format("LABEL_{}", i);
    config["id2label"][std::to_string(i)] = label;
    config["label2id"][label] = i;
  }
}

// Both forms: rope_parameters of version 5, rope_theta and rope_scaling of version 4.
void add_rope(const ModelConfig& model, ordered_json& config) {
  ordered_json rope = {{"rope_type", "default"}};
  const models::RopeScaling& scaling = model.rope_scaling;
  if (scaling.kind != RopeScalingKind::kNone) {
    rope = {{"rope_type", scaling.kind == RopeScalingKind::kLinear ? "linear" : "llama3"},
            {"factor", scaling.factor}};
  }
  if (scaling.kind == RopeScalingKind::kLlama3) {
    rope["low_freq_factor"] = scaling.low_freq_factor;
    rope["high_freq_factor"] = scaling.high_freq_factor;
    rope["original_max_position_embeddings"] = scaling.original_context;
  }
  config["rope_theta"] = model.rope_theta;
  config["rope_scaling"] =
      scaling.kind == RopeScalingKind::kNone ? ordered_json() : ordered_json(rope);
  rope["rope_theta"] = model.rope_theta;
  config["rope_parameters"] = rope;
}

void add_windows(const ModelConfig& model, const std::string& type, ordered_json& config) {
  const std::vector<std::int64_t>& pattern = model.attention_window;
  std::int64_t window = 0;
  for (const std::int64_t each : pattern)
    window = std::max(window, each);
  if (type == "mistral") {
    config["sliding_window"] = window;
    return;
  }
  config["use_sliding_window"] = window > 0;
  config["sliding_window"] = window > 0 ? ordered_json(window) : ordered_json();
  ordered_json types = ordered_json::array();
  for (std::int64_t layer = 0; layer < model.layers; ++layer)
    types.push_back(model.window_of(layer) > 0 ? "sliding_attention" : "full_attention");
  config["layer_types"] = types;
}

void add_llama(const ModelConfig& model, const std::string& type, ordered_json& config) {
  add_sizes(model, config);
  config["num_key_value_heads"] = model.kv_heads;
  config["head_dim"] = model.head_width();
  config["rms_norm_eps"] = model.norm_eps;
  config["attention_dropout"] = 0.0;  // drops less than model.dropout does, and only in training
  add_rope(model, config);
  if (type == "llama" || type == "qwen3")
    config["attention_bias"] = model.bias == models::Bias::kAll;
  if (type == "llama") config["mlp_bias"] = model.bias == models::Bias::kAll;
  if (type != "llama") add_windows(model, type, config);
}

}  // namespace

std::string foreign_architecture(const ModelConfig& model) {
  const std::string type = model_type(model);
  if (type == "gpt2") return "GPT2LMHeadModel";
  if (type == "bert")
    return model.task == Task::kClassification ? "BertForSequenceClassification"
                                               : "BertForMaskedLM";
  const std::string name = type == "qwen2"   ? "Qwen2"
                           : type == "qwen3" ? "Qwen3"
                           : type == "llama" ? "Llama"
                                             : "Mistral";
  return name + "ForCausalLM";
}

ordered_json foreign_config(const ModelConfig& model, core::DType dtype,
                            const ForeignTokens& tokens) {
  const std::string type = model_type(model);
  ordered_json config = {{"architectures", ordered_json::array({foreign_architecture(model)})},
                         {"model_type", type},
                         {"dtype", dtype_name(dtype)},
                         {"torch_dtype", dtype_name(dtype)},
                         {"vocab_size", model.vocab}};
  if (type == "gpt2") {
    add_gpt2(model, config);
  } else if (type == "bert") {
    add_bert(model, config);
  } else {
    add_llama(model, type, config);
  }
  config["tie_word_embeddings"] =
      model.task == Task::kClassification || model.tie_embeddings;  // unused by a classifier
  config["bos_token_id"] = token(tokens.begin);
  config["eos_token_id"] = token(tokens.end);
  config["pad_token_id"] = nullptr;
  config["use_cache"] = true;
  return config;
}

std::vector<std::string> inexpressible(const ModelConfig& model) {
  if (model.activation == Activation::kElu)
    return {"model.activation: elu (Transformers has no such activation)"};
  // What the file must say is taken from the model itself, so only what it cannot say can differ.
  const std::string text = foreign_config(model, core::DType::kF32, {}).dump();
  std::vector<std::string> keys;
  try {
    const ForeignModel back = read_foreign_model(text, "config.json");
    Config ours;
    ours.model = model;
    for (const ForeignDifference& each : find_differences(back, ours))
      keys.push_back(fmt::format("{}: {} (a {} model has {})", each.key,
                                 each.ours.empty() ? "off" : each.ours, back.model_type,
                                 each.theirs.empty() ? "none" : each.theirs));
  } catch (const core::Error& error) {
    keys.emplace_back(error.what());
  }
  return keys;
}

}  // namespace lockstep::runtime
