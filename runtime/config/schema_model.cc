// The rows of `model:`.
#include "runtime/config/schema_builder.h"

namespace lockstep::runtime {
namespace {

using models::Activation;
using models::Bias;
using models::Family;
using models::InitKind;
using models::NormKind;
using models::NormPosition;
using models::Positions;
using models::ResidualGate;
using models::RopeScalingKind;
using models::Task;

void add_sizes(SchemaBuilder& schema) {
  constexpr double kMaxSize = 1 << 30;
  schema
      .choice("model.family", LOCKSTEP_FIELD(model.family),
              {std::pair{"gpt", Family::kGpt}, {"llama", Family::kLlama}, {"bert", Family::kBert}},
              "architecture; sets the defaults of the keys below")
      .integer("model.layers", LOCKSTEP_FIELD(model.layers), between(1, 1 << 20),
               "Transformer blocks")
      .required()
      .integer("model.heads", LOCKSTEP_FIELD(model.heads), between(1, kMaxSize),
               "attention heads; divides width")
      .required()
      .integer("model.kv_heads", LOCKSTEP_FIELD(model.kv_heads), between(1, kMaxSize),
               "key/value heads (grouped-query attention); divides heads")
      .derived("model.heads")
      .integer("model.width", LOCKSTEP_FIELD(model.width), between(1, kMaxSize),
               "width of the residual stream")
      .required()
      .integer("model.head_width", LOCKSTEP_FIELD(model.given_head_width), between(1, kMaxSize),
               "width of one attention head; even with rope")
      .unset("width / heads")
      .integer("model.ffn_width", LOCKSTEP_FIELD(model.ffn_width), between(1, kMaxSize),
               "width of the feed-forward layer")
      .derived("4 * width; swiglu and geglu: 8/3 * width rounded up to 64")
      .integer("model.context", LOCKSTEP_FIELD(model.context), between(1, kMaxSize),
               "tokens of a sequence")
      .required()
      .integer("model.vocab", LOCKSTEP_FIELD(model.vocab), between(2, kMaxSize),
               "token ids run from 0 to vocab - 1")
      .required();
}

void add_architecture(SchemaBuilder& schema) {
  schema
      .choice("model.norm", LOCKSTEP_FIELD(model.norm),
              {std::pair{"layernorm", NormKind::kLayerNorm}, {"rmsnorm", NormKind::kRmsNorm}},
              "kind of normalisation")
      .derived("gpt, bert: layernorm; llama: rmsnorm")
      .choice("model.norm_position", LOCKSTEP_FIELD(model.norm_position),
              {std::pair{"pre", NormPosition::kPre}, {"post", NormPosition::kPost}},
              "pre: x + f(norm(x)) and a final norm; post: norm(x + f(x)) and none")
      .derived("gpt, llama: pre; bert: post")
      .number("model.norm_eps", LOCKSTEP_FIELD(model.norm_eps), inside(0, 1),
              "added to the variance in norms")
      .derived("gpt, llama: 1e-5; bert: 1e-12")
      .choice("model.activation", LOCKSTEP_FIELD(model.activation),
              {std::pair{"gelu", Activation::kGelu},
               {"gelu_tanh", Activation::kGeluTanh},
               {"relu", Activation::kRelu},
               {"leaky_relu", Activation::kLeakyRelu},
               {"elu", Activation::kElu},
               {"silu", Activation::kSilu},
               {"swiglu", Activation::kSwiGlu},
               {"geglu", Activation::kGeGlu}},
              "of the feed-forward layer; swiglu and geglu are gated")
      .derived("gpt: gelu_tanh; llama: swiglu; bert: gelu")
      .choice("model.positions", LOCKSTEP_FIELD(model.positions),
              {std::pair{"learned", Positions::kLearned},
               {"rope", Positions::kRope},
               {"sinusoidal", Positions::kSinusoidal}},
              "how positions enter")
      .derived("gpt, bert: learned; llama: rope")
      .number("model.rope_theta", LOCKSTEP_FIELD(model.rope_theta), above(0),
              "base of the rotary frequencies")
      .integers("model.attention_window", LOCKSTEP_FIELD(model.attention_window),
                between(0, 1 << 30),
                "a position sees only the last N up to itself, 0: all; a list is the pattern that "
                "the blocks repeat")
      .unset("no block has a window")
      .choice("model.bias", LOCKSTEP_FIELD(model.bias),
              {std::pair{"true", Bias::kAll}, {"false", Bias::kNone}, {"qkv", Bias::kQkv}},
              "biases on linear layers; qkv: on query, key and value projections alone")
      .derived("gpt, bert: true; llama: false")
      .boolean("model.tie_embeddings", LOCKSTEP_FIELD(model.tie_embeddings),
               "the output projection is the token embedding")
      .derived("gpt, bert: true; llama: false")
      .number("model.dropout", LOCKSTEP_FIELD(model.dropout), below(0, 1),
              "after embeddings, on attention probabilities and on both residual branches")
      .choice("model.residual_gate", LOCKSTEP_FIELD(model.residual_gate),
              {std::pair{"none", ResidualGate::kNone}, {"scalar", ResidualGate::kScalar}},
              "scalar: x + g * f(x) with one learned g per branch, 1 at first");
}

void add_rope_scaling(SchemaBuilder& schema) {
  schema
      .choice("model.rope_scaling.type", LOCKSTEP_FIELD(model.rope_scaling.kind),
              {std::pair{"none", RopeScalingKind::kNone},
               {"linear", RopeScalingKind::kLinear},
               {"llama3", RopeScalingKind::kLlama3}},
              "linear: every frequency / factor; llama3: low frequencies alone")
      .number("model.rope_scaling.factor", LOCKSTEP_FIELD(model.rope_scaling.factor), above(0),
              "how much longer the context becomes")
      .unset("required by linear and llama3")
      .number("model.rope_scaling.low_freq_factor",
              LOCKSTEP_FIELD(model.rope_scaling.low_freq_factor), above(0),
              "wavelengths beyond original / this are stretched in full")
      .unset("required by llama3")
      .number("model.rope_scaling.high_freq_factor",
              LOCKSTEP_FIELD(model.rope_scaling.high_freq_factor), above(0),
              "wavelengths below original / this are left")
      .unset("required by llama3")
      .integer("model.rope_scaling.original_max_position_embeddings",
               LOCKSTEP_FIELD(model.rope_scaling.original_context), between(1, 1 << 30),
               "the context that the model was first trained for")
      .unset("required by llama3");
}

void add_initialisation_and_head(SchemaBuilder& schema) {
  schema
      .choice("model.init", LOCKSTEP_FIELD(model.init),
              {std::pair{"gpt2", InitKind::kGpt2},
               {"xavier_uniform", InitKind::kXavierUniform},
               {"xavier_normal", InitKind::kXavierNormal},
               {"kaiming_uniform", InitKind::kKaimingUniform},
               {"kaiming_normal", InitKind::kKaimingNormal}},
              "initial weights; gpt2: normal, residual outputs scaled by 1/sqrt(2 * layers)")
      .number("model.init_std", LOCKSTEP_FIELD(model.init_std), above(0),
              "standard deviation of normal initial weights")
      .choice(
          "model.parametrization", LOCKSTEP_FIELD(model.parametrization),
          {std::pair{"standard", models::Parametrization::kStandard},
           {"mup", models::Parametrization::kMup}},
          "mup: initial weights, learning rates, scores and logits scaled by width, so that the "
          "learning rate of a narrow model is that of a wide one")
      .integer("model.mup_base_width", LOCKSTEP_FIELD(model.mup_base_width), between(1, 1 << 30),
               "mup: width of the model whose learning rates these are; there nothing is scaled")
      .unset("not used")
      .boolean("model.qk_norm", LOCKSTEP_FIELD(model.qk_norm),
               "RMSNorm over each query and key head")
      .number("model.logit_softcap", LOCKSTEP_FIELD(model.logit_softcap), at_least(0),
              "logits = cap * tanh(logits / cap); 0: off")
      .choice("model.task", LOCKSTEP_FIELD(model.task),
              {std::pair{"causal_lm", Task::kCausalLm},
               {"masked_lm", Task::kMaskedLm},
               {"classification", Task::kClassification}},
              "what is trained")
      .derived("gpt, llama: causal_lm; bert: masked_lm")
      .integer("model.classes", LOCKSTEP_FIELD(model.classes), between(2, 1 << 30),
               "classes of a classification")
      .unset("not used")
      .file("model.init_from", LOCKSTEP_FIELD(init_from),
            "weights to start from instead of init: a safetensors file with Hugging Face names, or "
            "the directory of such a model")
      .unset("none")
      .boolean("model.init_resize", LOCKSTEP_FIELD(init_resize),
               "cut or pad vocabulary and learned positions of init_from to what is configured")
      .unset("false");
}

}  // namespace

void add_model_keys(SchemaBuilder& schema) {
  add_sizes(schema);
  add_architecture(schema);
  add_initialisation_and_head(schema);
  add_rope_scaling(schema);
}

}  // namespace lockstep::runtime
