#include "runtime/interchange/foreign_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/interchange/foreign_attention.h"

namespace lockstep::runtime {

namespace {

using models::Activation;
using models::Family;
using models::ModelConfig;
using nlohmann::json;
using Fields = std::vector<ForeignField>;

// Exactly the value of a missing field is legal.
void only(FieldReader& reader, const ForeignField& field) {
  if (reader.value(field.name) != json::parse(field.absent))
    reader.reject(field.name, std::string(field.absent));
}

// Not a field that a model of ours can have.
void never(FieldReader& reader, const ForeignField& field) {
  if (reader.given(field.name) && !reader.value(field.name).is_null())
    reader.reject(field.name, "no such field");
}

// Read together with another field.
void elsewhere(FieldReader&, const ForeignField&) {}

template <std::int64_t ModelConfig::*Member>
void size(FieldReader& reader, const ForeignField& field) {
  reader.model().*Member = reader.whole(field.name, reader.value(field.name), 1);
}

// null: follows from the other sizes (derive_sizes).
template <std::int64_t ModelConfig::*Member>
void optional_size(FieldReader& reader, const ForeignField& field) {
  const json value = reader.value(field.name);
  reader.model().*Member = value.is_null() ? 0 : reader.whole(field.name, value, 1);
}

template <double ModelConfig::*Member>
void real(FieldReader& reader, const ForeignField& field) {
  reader.model().*Member = reader.number(field.name, reader.value(field.name), 1.0);
}

template <bool ModelConfig::*Member>
void flag(FieldReader& reader, const ForeignField& field) {
  reader.model().*Member = reader.flag(field.name, reader.value(field.name), false);
}

void dropout(FieldReader& reader, const ForeignField& field) {
  const json value = reader.value(field.name);
  if (value.is_null()) return;  // BERT's classifier_dropout: as hidden_dropout_prob
  reader.result().dropouts[std::string(field.name)] = reader.number(field.name, value, 0.0);
}

// Llama and its relatives drop attention probabilities alone; model.dropout drops more.
void attention_dropout(FieldReader& reader, const ForeignField& field) {
  dropout(reader, field);
  reader.result().dropouts["hidden dropout (none in this model)"] = 0.0;
}

struct NamedActivation {
  std::string_view name;
  Activation plain;
};
constexpr NamedActivation kActivations[] = {
    {"gelu", Activation::kGelu},          {"gelu_python", Activation::kGelu},
    {"gelu_new", Activation::kGeluTanh},  {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh}, {"gelu_python_tanh", Activation::kGeluTanh},
    {"relu", Activation::kRelu},          {"leaky_relu", Activation::kLeakyRelu},
    {"silu", Activation::kSilu},          {"swish", Activation::kSilu},
};

void read_activation(FieldReader& reader, const ForeignField& field, bool gated) {
  const json value = reader.value(field.name);
  const auto* const found =
      std::find_if(std::begin(kActivations), std::end(kActivations), [&](const auto& each) {
        return value.is_string() && value.get_ref<const std::string&>() == each.name;
      });
  if (found == std::end(kActivations))
    return reader.reject(field.name,
                         gated ? "silu, gelu_new or gelu_pytorch_tanh"
                               : "gelu, gelu_new, gelu_pytorch_tanh, relu, leaky_relu or silu");
  if (!gated) {
    reader.model().activation = found->plain;
  } else if (found->plain == Activation::kSilu) {
    reader.model().activation = Activation::kSwiGlu;
  } else if (found->plain == Activation::kGeluTanh) {
    reader.model().activation = Activation::kGeGlu;
  } else {
    reader.reject(field.name, "silu, gelu_new or gelu_pytorch_tanh");
  }
}
void activation(FieldReader& reader, const ForeignField& field) {
  read_activation(reader, field, false);
}
void gated_activation(FieldReader& reader, const ForeignField& field) {
  read_activation(reader, field, true);
}

// Both biases of a Llama or none: `model.bias` has one switch for all linear layers.
void llama_biases(FieldReader& reader, const ForeignField& field) {
  const bool attention = reader.flag(field.name, reader.value(field.name), false);
  const bool mlp = reader.flag("mlp_bias", reader.value("mlp_bias"), false);
  if (attention != mlp)
    return reader.reject(field.name, fmt::format("{}, as mlp_bias (model.bias is for both)", mlp));
  reader.model().bias = attention ? models::Bias::kAll : models::Bias::kNone;
}

void type_rows(FieldReader& reader, const ForeignField& field) {
  const auto expected = reader.model().token_types;
  if (reader.whole(field.name, reader.value(field.name), expected) != expected)
    reader.reject(field.name, std::to_string(expected));
}

// A padding row has no gradient there, as an input; it has one here.
void padding(FieldReader& reader, const ForeignField& field) {
  const json value = reader.value(field.name);
  if (value.is_number_integer() && value >= 0)
    reader.note(
        fmt::format("{} {}: Transformers leaves the row of this token without a gradient "
                    "where it is an input; here it has one",
                    field.name, json_excerpt(value)));
}

// The head that the file was saved with: known from its class's name.
void decoder_head(FieldReader& reader, const ForeignField& field) {
  const json value = reader.value(field.name);
  if (value.is_null() || (value.is_array() && value.empty())) return;
  const std::string name =
      value.is_array() && value[0].is_string() ? value[0].get<std::string>() : "";
  const bool legal = name.ends_with("ForCausalLM") || name.ends_with("LMHeadModel") ||
                     name.ends_with("DoubleHeadsModel") || name.ends_with("Model");
  if (!legal) reader.reject(field.name, "a class for causal language modelling");
}

void encoder_head(FieldReader& reader, const ForeignField& field) {
  const json value = reader.value(field.name);
  if (value.is_null() || (value.is_array() && value.empty())) return;
  const std::string name =
      value.is_array() && value[0].is_string() ? value[0].get<std::string>() : "";
  if (name == "BertForMaskedLM" || name == "BertForPreTraining" || name == "BertModel") return;
  if (name != "BertForSequenceClassification")
    return reader.reject(field.name,
                         "BertForMaskedLM, BertForPreTraining, BertForSequenceClassification or "
                         "BertModel");
  const json labels = reader.value("id2label");
  reader.model().task = models::Task::kClassification;
  reader.model().classes = labels.is_object() ? static_cast<std::int64_t>(labels.size()) : 2;
  const json problem = reader.value("problem_type");
  if (!problem.is_null() && problem != "single_label_classification")
    reader.reject("problem_type", "single_label_classification");
}

// Fields that every model may have.
Fields common(ReadField head) {
  Fields fields = {
      {"architectures", "null", head, "task classes"},
      {"quantization_config", "null", only},
      {"auto_map", "null", never},
      {"is_encoder_decoder", "false", only},
      {"is_decoder", "false", only},
      {"add_cross_attention", "false", only},
      {"cross_attention_hidden_size", "null", only},
      {"tie_encoder_decoder", "false", only},
      {"pruned_heads", "{}", only},
      {"pad_token_id", "null", padding},
      {"problem_type", "null", elsewhere},
      {"id2label", "null", elsewhere},
  };
  for (const std::string_view harmless : {"model_type",
                                          "transformers_version",
                                          "output_hidden_states",
                                          "output_attentions",
                                          "return_dict",
                                          "dtype",
                                          "torch_dtype",
                                          "use_cache",
                                          "use_bfloat16",
                                          "label2id",
                                          "num_labels",
                                          "_num_labels",
                                          "_name_or_path",
                                          "_commit_hash",
                                          "_attn_implementation",
                                          "_attn_implementation_autoset",
                                          "attn_implementation",
                                          "chunk_size_feed_forward",
                                          "initializer_range",
                                          "bos_token_id",
                                          "eos_token_id",
                                          "sep_token_id",
                                          "cls_token_id",
                                          "mask_token_id",
                                          "unk_token_id",
                                          "decoder_start_token_id",
                                          "task_specific_params",
                                          "finetuning_task",
                                          "tokenizer_class",
                                          "prefix",
                                          "torchscript",
                                          "gradient_checkpointing",
                                          "max_length",
                                          "min_length",
                                          "do_sample",
                                          "early_stopping",
                                          "num_beams",
                                          "num_beam_groups",
                                          "diversity_penalty",
                                          "temperature",
                                          "top_k",
                                          "top_p",
                                          "typical_p",
                                          "repetition_penalty",
                                          "length_penalty",
                                          "no_repeat_ngram_size",
                                          "encoder_no_repeat_ngram_size",
                                          "bad_words_ids",
                                          "num_return_sequences",
                                          "output_scores",
                                          "return_dict_in_generate",
                                          "forced_bos_token_id",
                                          "forced_eos_token_id",
                                          "remove_invalid_values",
                                          "exponential_decay_length_penalty",
                                          "suppress_tokens",
                                          "begin_suppress_tokens",
                                          "tf_legacy_loss"})
    fields.push_back({harmless});
  return fields;
}

Fields with_common(ReadField head, Fields own) {
  const Fields shared = common(head);
  // A model's own row counts where both have one.
  for (const ForeignField& field : shared) {
    const bool replaced = std::any_of(own.begin(), own.end(),
                                      [&](const auto& each) { return each.name == field.name; });
    if (!replaced) own.push_back(field);
  }
  return own;
}

Fields gpt2_fields() {
  return with_common(
      decoder_head,
      {
          {"vocab_size", "50257", size<&ModelConfig::vocab>, "vocab"},
          {"n_positions", "1024", size<&ModelConfig::context>, "context"},
          {"n_ctx"},
          {"n_embd", "768", size<&ModelConfig::width>, "width"},
          {"n_layer", "12", size<&ModelConfig::layers>, "layers"},
          {"n_head", "12", size<&ModelConfig::heads>, "heads"},
          {"n_inner", "null", optional_size<&ModelConfig::ffn_width>, "ffn_width"},
          {"activation_function", "\"gelu_new\"", activation, "activation"},
          {"resid_pdrop", "0.1", dropout, "dropout"},
          {"embd_pdrop", "0.1", dropout, "dropout"},
          {"attn_pdrop", "0.1", dropout, "dropout"},
          {"layer_norm_epsilon", "1e-05", real<&ModelConfig::norm_eps>, "norm_eps"},
          {"summary_type"},
          {"summary_use_proj"},
          {"summary_activation"},
          {"summary_proj_to_labels"},
          {"summary_first_dropout"},
          {"scale_attn_weights", "true", only},
          {"scale_attn_by_inverse_layer_idx", "false", only},
          {"reorder_and_upcast_attn"},
          {"tie_word_embeddings", "true", flag<&ModelConfig::tie_embeddings>, "tie_embeddings"},
          {"bos_token_id"},
          {"eos_token_id"},
      });
}

Fields bert_fields() {
  return with_common(
      encoder_head,
      {
          {"vocab_size", "30522", size<&ModelConfig::vocab>, "vocab"},
          {"hidden_size", "768", size<&ModelConfig::width>, "width"},
          {"num_hidden_layers", "12", size<&ModelConfig::layers>, "layers"},
          {"num_attention_heads", "12", size<&ModelConfig::heads>, "heads"},
          {"intermediate_size", "3072", size<&ModelConfig::ffn_width>, "ffn_width"},
          {"hidden_act", "\"gelu\"", activation, "activation"},
          {"hidden_dropout_prob", "0.1", dropout, "dropout"},
          {"attention_probs_dropout_prob", "0.1", dropout, "dropout"},
          {"classifier_dropout", "null", dropout, "dropout"},
          {"max_position_embeddings", "512", size<&ModelConfig::context>, "context"},
          {"type_vocab_size", "2", type_rows},
          {"layer_norm_eps", "1e-12", real<&ModelConfig::norm_eps>, "norm_eps"},
          {"position_embedding_type", "\"absolute\"", only, "positions"},
          {"pad_token_id", "0", padding},
          {"tie_word_embeddings", "true", flag<&ModelConfig::tie_embeddings>, "tie_embeddings"},
          {"directionality"},
          {"pooler_fc_size"},
          {"pooler_num_attention_heads"},
          {"pooler_num_fc_layers"},
          {"pooler_size_per_head"},
          {"pooler_type"},
      });
}

// What Llama and its relatives share; `own` comes first and its rows count.
Fields llama_fields(Fields own) {
  const Fields shared = {
      {"hidden_size", "4096", size<&ModelConfig::width>, "width"},
      {"num_hidden_layers", "32", size<&ModelConfig::layers>, "layers"},
      {"num_attention_heads", "32", size<&ModelConfig::heads>, "heads"},
      {"hidden_act", "\"silu\"", gated_activation, "activation"},
      {"rms_norm_eps", "1e-06", real<&ModelConfig::norm_eps>, "norm_eps"},
      {"tie_word_embeddings", "false", flag<&ModelConfig::tie_embeddings>, "tie_embeddings"},
      {"attention_dropout", "0.0", attention_dropout, "dropout"},
      {"rope_parameters", "null", read_rope, "rope_theta rope_scaling"},
      {"rope_scaling", "null", elsewhere, "rope_scaling"},
      {"rope_theta", "null", elsewhere, "rope_theta"},
  };
  own.insert(own.end(), shared.begin(), shared.end());
  return with_common(decoder_head, std::move(own));
}

Fields llama_own_fields() {
  return llama_fields({
      {"vocab_size", "32000", size<&ModelConfig::vocab>, "vocab"},
      {"intermediate_size", "11008", size<&ModelConfig::ffn_width>, "ffn_width"},
      {"num_key_value_heads", "null", optional_size<&ModelConfig::kv_heads>, "kv_heads"},
      {"head_dim", "null", optional_size<&ModelConfig::given_head_width>, "head_width"},
      {"max_position_embeddings", "2048", size<&ModelConfig::context>, "context"},
      {"attention_bias", "false", llama_biases, "bias"},
      {"mlp_bias", "false", elsewhere, "bias"},
      {"pretraining_tp", "1", only},
  });
}

Fields mistral_fields() {
  return llama_fields({
      {"vocab_size", "32000", size<&ModelConfig::vocab>, "vocab"},
      {"intermediate_size", "14336", size<&ModelConfig::ffn_width>, "ffn_width"},
      {"num_key_value_heads", "8", optional_size<&ModelConfig::kv_heads>, "kv_heads"},
      {"head_dim", "null", optional_size<&ModelConfig::given_head_width>, "head_width"},
      {"max_position_embeddings", "131072", size<&ModelConfig::context>, "context"},
      {"sliding_window", "4096", read_window_of_all_layers, "attention_window"},
  });
}

// Qwen2 has biases on query, key and value, whatever its config.json says; Qwen3 has none and a
// norm of each head.
void qwen2_biases(FieldReader& reader, const ForeignField&) {
  reader.model().bias = models::Bias::kQkv;
}
void qwen3_norms(FieldReader& reader, const ForeignField& field) {
  reader.model().qk_norm = true;
  only(reader, field);
}

Fields qwen_fields(Fields own) {
  const Fields shared = {
      {"vocab_size", "151936", size<&ModelConfig::vocab>, "vocab"},
      {"intermediate_size", "22016", size<&ModelConfig::ffn_width>, "ffn_width"},
      {"num_key_value_heads", "32", optional_size<&ModelConfig::kv_heads>, "kv_heads"},
      {"max_position_embeddings", "32768", size<&ModelConfig::context>, "context"},
      {"layer_types", "null", read_window_by_layer, "attention_window"},
      {"use_sliding_window", "false", elsewhere, "attention_window"},
      {"sliding_window", "4096", elsewhere, "attention_window"},
      {"max_window_layers", "28", elsewhere, "attention_window"},
  };
  own.insert(own.end(), shared.begin(), shared.end());
  return llama_fields(std::move(own));
}

Fields qwen2_fields() {
  return qwen_fields({
      {"head_dim", "null", optional_size<&ModelConfig::given_head_width>, "head_width"},
      {"model_type", "\"qwen2\"", qwen2_biases, "bias"},
  });
}

Fields qwen3_fields() {
  return qwen_fields({
      {"head_dim", "128", size<&ModelConfig::given_head_width>, "head_width"},
      {"attention_bias", "false", qwen3_norms, "bias qk_norm"},
  });
}

}  // namespace

std::span<const ForeignFamily> foreign_families() {
  static const std::vector<ForeignFamily> families = {
      {"bert", Family::kBert, bert_fields()},        {"gpt2", Family::kGpt, gpt2_fields()},
      {"llama", Family::kLlama, llama_own_fields()}, {"mistral", Family::kLlama, mistral_fields()},
      {"qwen2", Family::kLlama, qwen2_fields()},     {"qwen3", Family::kLlama, qwen3_fields()},
  };
  return families;
}

const ForeignFamily* find_foreign_family(std::string_view model_type) {
  const auto families = foreign_families();
  const auto found = std::find_if(families.begin(), families.end(), [&](const auto& family) {
    return family.model_type == model_type;
  });
  return found == families.end() ? nullptr : &*found;
}

void FieldReader::read_all() {
  for (const ForeignField& field : family_.fields) {
    if (field.read == nullptr) continue;
    field.read(*this, field);
    std::string_view keys = field.key;
    while (!keys.empty()) {
      const std::size_t end = std::min(keys.find(' '), keys.size());
      std::string& origin = result_.origin[std::string(keys.substr(0, end))];
      if (!origin.empty()) origin += ", ";
      origin += given(field.name) ? std::string(field.name)
                                  : fmt::format("{}, absent: {}", field.name, field.absent);
      keys.remove_prefix(std::min(end + 1, keys.size()));
    }
  }
  if (!result_.dropouts.empty() && result_.dropouts_agree())
    result_.model.dropout = result_.dropouts.begin()->second;
  for (const auto& [name, value] : config_.items()) {
    if (row(name) == nullptr)
      problems_.push_back(
          fmt::format("{} {}: a field that {} models do not have, or that is not known", name,
                      json_excerpt(value), family_.model_type));
  }
}

const ForeignField* FieldReader::row(std::string_view name) const {
  const auto found = std::find_if(family_.fields.begin(), family_.fields.end(),
                                  [&](const ForeignField& field) { return field.name == name; });
  return found == family_.fields.end() ? nullptr : &*found;
}

json FieldReader::value(std::string_view name) const {
  const auto found = config_.find(name);
  if (found != config_.end()) return *found;
  const ForeignField* field = row(name);
  return field == nullptr ? json() : json::parse(field->absent);
}

void FieldReader::reject(std::string_view field, const std::string& expected) {
  problems_.push_back(
      fmt::format("{} {}: expected {}", field, json_excerpt(value(field)), expected));
}

std::int64_t FieldReader::whole(std::string_view field, const json& value, std::int64_t fallback) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (value.is_number_integer() && value >= 1 && value <= kMost) return value.get<std::int64_t>();
  reject(field, fmt::format("a whole number from 1 to {}", kMost));
  return fallback;
}

double FieldReader::number(std::string_view field, const json& value, double fallback) {
  if (value.is_number()) return value.get<double>();
  reject(field, "a number");
  return fallback;
}

bool FieldReader::flag(std::string_view field, const json& value, bool fallback) {
  if (value.is_boolean()) return value.get<bool>();
  reject(field, "true or false");
  return fallback;
}

std::string json_excerpt(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

}  // namespace lockstep::runtime
