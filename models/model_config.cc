#include "models/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace lockstep::models {

ModelConfig family_defaults(Family family) {
  ModelConfig config;
  config.family = family;
  switch (family) {
    case Family::kGpt:
      break;
    case Family::kLlama:
      config.norm = NormKind::kRmsNorm;
      config.activation = Activation::kSwiGlu;
      config.positions = Positions::kRope;
      config.bias = Bias::kNone;
      config.tie_embeddings = false;
      break;
    case Family::kBert:
      config.norm_position = NormPosition::kPost;
      config.norm_eps = 1e-12;
      config.activation = Activation::kGelu;
      config.task = Task::kMaskedLm;
      config.token_types = 2;
      break;
  }
  return config;
}

void derive_sizes(ModelConfig& config) {
  constexpr std::int64_t kRounding = 64;
  if (config.kv_heads == 0) config.kv_heads = config.heads;
  if (config.given_head_width * config.heads == config.width) config.given_head_width = 0;
  if (config.ffn_width == 0) {
    const std::int64_t gated = (8 * config.width + 2) / 3;  // ceil(8/3 * width)
    config.ffn_width =
        config.gated() ? (gated + kRounding - 1) / kRounding * kRounding : 4 * config.width;
  }
  if (config.task == Task::kClassification) config.tie_embeddings = false;
}

namespace {

using Problems = std::vector<ModelConfigProblem>;

void require(Problems& problems, bool legal, const char* key, std::string message) {
  if (!legal) problems.push_back({key, std::move(message)});
}

void check_size(Problems& problems, const char* key, std::int64_t value) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  require(problems, value >= 1 && value <= kMost, key,
          fmt::format("must be between 1 and {}, is {}", kMost, value));
}

// Sizes that must fit each other; only asked of sizes that are legal by themselves.
void check_heads(Problems& problems, const ModelConfig& c) {
  require(
      problems, c.given_head_width > 0 || c.width % c.heads == 0, "heads",
      fmt::format("must divide width ({}), so that every head has the same width; is {} (or give "
                  "head_width)",
                  c.width, c.heads));
  require(problems, c.heads % c.kv_heads == 0, "kv_heads",
          fmt::format("must divide heads ({}), so that every key/value head serves the same number "
                      "of query heads; is {}",
                      c.heads, c.kv_heads));
  if (c.positions == Positions::kRope && (c.given_head_width > 0 || c.width % c.heads == 0)) {
    const bool divided = c.head_width() * c.heads == c.width;
    require(problems, c.head_width() % 2 == 0, divided ? "positions" : "head_width",
            divided ? fmt::format("rope rotates pairs of elements and needs an even head width; "
                                  "width {} / heads {} is {}",
                                  c.width, c.heads, c.head_width())
                    : fmt::format("must be even, since rope rotates pairs of elements; is {}",
                                  c.head_width()));
  }
}

void check_positions(Problems& problems, const ModelConfig& c) {
  if (c.positions == Positions::kSinusoidal) {
    require(problems, c.width % 2 == 0, "positions",
            fmt::format("sinusoidal fills pairs of sine and cosine and needs an even width; is {}",
                        c.width));
  }
  require(problems, std::isfinite(c.rope_theta) && c.rope_theta > 0.0, "rope_theta",
          fmt::format("must be greater than 0, is {}", c.rope_theta));
}

void check_rope_scaling(Problems& problems, const ModelConfig& c) {
  const RopeScaling& scaling = c.rope_scaling;
  const bool llama3 = scaling.kind == RopeScalingKind::kLlama3;
  if (scaling.kind == RopeScalingKind::kNone) return;
  require(problems, c.positions == Positions::kRope, "rope_scaling.type",
          "scales rotary frequencies; it needs positions rope");
  const auto above_zero = [&](const char* key, double value) {
    require(problems, std::isfinite(value) && value > 0.0, key,
            fmt::format("is required, greater than 0, by rope_scaling.type {}; is {}",
                        llama3 ? "llama3" : "linear", value));
  };
  above_zero("rope_scaling.factor", scaling.factor);
  if (!llama3) return;
  above_zero("rope_scaling.low_freq_factor", scaling.low_freq_factor);
  above_zero("rope_scaling.high_freq_factor", scaling.high_freq_factor);
  above_zero("rope_scaling.original_max_position_embeddings",
             static_cast<double>(scaling.original_context));
  require(problems, scaling.high_freq_factor > scaling.low_freq_factor,
          "rope_scaling.high_freq_factor",
          fmt::format("must be greater than low_freq_factor ({}), is {}", scaling.low_freq_factor,
                      scaling.high_freq_factor));
}

void check_window(Problems& problems, const ModelConfig& c) {
  const std::vector<std::int64_t>& windows = c.attention_window;
  const auto count = static_cast<std::int64_t>(windows.size());
  require(problems, windows.empty() || c.causal(), "attention_window",
          "counts positions of the past; family bert has no such mask");
  require(problems, count <= std::max<std::int64_t>(c.layers, 1), "attention_window",
          fmt::format("has {} entries for {} layers", count, c.layers));
  for (const std::int64_t window : windows)
    require(problems, window >= 0, "attention_window",
            fmt::format("must be 0 (no window) or greater, is {}", window));
}

void check_numbers(Problems& problems, const ModelConfig& c) {
  require(problems, c.dropout >= 0.0 && c.dropout < 1.0, "dropout",
          fmt::format("is a probability in [0, 1); is {}", c.dropout));
  require(
      problems, std::isfinite(c.norm_eps) && c.norm_eps > 0.0, "norm_eps",
      fmt::format("must be greater than 0, or a constant row divides by zero; is {}", c.norm_eps));
  require(problems, std::isfinite(c.logit_softcap) && c.logit_softcap >= 0.0, "logit_softcap",
          fmt::format("must be 0 (off) or greater; is {}", c.logit_softcap));
  require(problems, std::isfinite(c.init_std) && c.init_std > 0.0, "init_std",
          fmt::format("must be greater than 0, or all rows start equal; is {}", c.init_std));
}

void check_parametrization(Problems& problems, const ModelConfig& c) {
  if (c.parametrization == Parametrization::kStandard) return;
  require(problems, c.family != Family::kBert && c.norm_position == NormPosition::kPre,
          "parametrization", "mup is for families gpt and llama with norm_position pre");
  const bool divides = c.given_head_width > 0 || c.mup_base_width % c.heads == 0;
  require(problems, c.mup_base_width >= 1 && divides, "mup_base_width",
          fmt::format("mup needs the width of the base model, a multiple of heads ({}); is {}",
                      c.heads, c.mup_base_width));
}

void check_task(Problems& problems, const ModelConfig& c) {
  const bool encoder = c.family == Family::kBert;
  if (encoder) {
    require(problems, c.task != Task::kCausalLm, "task",
            "causal_lm makes no sense with family bert: its attention sees the tokens that are to "
            "be predicted; legal: masked_lm, classification");
  } else {
    require(problems, c.task == Task::kCausalLm, "task",
            "families gpt and llama train causal_lm; masked_lm and classification need the "
            "bidirectional attention of family bert");
  }
  require(
      problems, encoder ? c.token_types >= 1 : c.token_types == 0, "token_types",
      fmt::format("belongs to family bert (at least 1) alone (0 elsewhere); is {}", c.token_types));
  if (c.task == Task::kClassification) {
    require(problems, c.classes >= 2, "classes",
            fmt::format("task classification needs the number of classes, at least 2; is {}",
                        c.classes));
    require(problems, !c.tie_embeddings, "tie_embeddings",
            "a classification head has no output embedding to tie; leave it out or set false");
  } else {
    require(problems, c.classes == 0, "classes",
            fmt::format("only task classification has classes; is {}", c.classes));
  }
}

}  // namespace

std::vector<ModelConfigProblem> find_problems(const ModelConfig& config) {
  Problems problems;
  const std::pair<const char*, std::int64_t> sizes[] = {
      {"layers", config.layers}, {"heads", config.heads},         {"kv_heads", config.kv_heads},
      {"width", config.width},   {"ffn_width", config.ffn_width}, {"context", config.context},
      {"vocab", config.vocab},
  };
  for (const auto& [key, value] : sizes)
    check_size(problems, key, value);
  if (problems.empty()) {
    check_heads(problems, config);
    check_positions(problems, config);
    check_parametrization(problems, config);
    check_rope_scaling(problems, config);
    check_window(problems, config);
  }
  check_numbers(problems, config);
  check_task(problems, config);
  return problems;
}

}  // namespace lockstep::models
