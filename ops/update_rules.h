#pragma once

#include <cmath>

#include "ops/optimizer_update.h"

// The rules of optimizer_update(): what becomes of one element p, with up to two values of state,
// under gradient g. The constants are computed in double and rounded once. State as in PyTorch:
// adam(w) exp_avg, exp_avg_sq; sgd momentum_buffer; rmsprop square_avg, momentum_buffer; lion
// exp_avg. constexpr, so that kernels may call them too.
namespace lockstep::ops {

// Kingma & Ba 2015; decoupled decay: Loshchilov & Hutter 2019. Where decay is not decoupled,
// `decay` is 1 and `l2` joins the gradient.
struct AdamRule {
  static constexpr int kStates = 2;
  float one_minus_beta1, beta2, one_minus_beta2, inverse_root_correction2, eps, step_size, decay,
      l2;

  AdamRule(const UpdateRule& rule, double weight_decay) {
    const auto t = static_cast<double>(rule.t);
    const bool decoupled = rule.kind == OptimizerKind::kAdamW;
    one_minus_beta1 = static_cast<float>(1.0 - rule.beta1);
    beta2 = static_cast<float>(rule.beta2);
    one_minus_beta2 = static_cast<float>(1.0 - rule.beta2);
    inverse_root_correction2 = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(rule.beta2, t)));
    eps = static_cast<float>(rule.eps);
    step_size = static_cast<float>(rule.learning_rate / (1.0 - std::pow(rule.beta1, t)));
    decay = decoupled ? static_cast<float>(1.0 - rule.learning_rate * weight_decay) : 1.0F;
    l2 = decoupled ? 0.0F : static_cast<float>(weight_decay);
  }

  constexpr void operator()(float g, float& p, float& s0, float& s1) const {
    g = g + l2 * p;
    s0 = s0 + one_minus_beta1 * (g - s0);
    s1 = beta2 * s1 + one_minus_beta2 * (g * g);
    const float denominator = std::sqrt(s1) * inverse_root_correction2 + eps;
    p = p * decay - step_size * (s0 / denominator);
  }
};

struct SgdRule {
  static constexpr int kStates = 0;
  float learning_rate, l2;

  SgdRule(const UpdateRule& rule, double weight_decay)
      : learning_rate(static_cast<float>(rule.learning_rate)),
        l2(static_cast<float>(weight_decay)) {}

  constexpr void operator()(float g, float& p, float&, float&) const {
    p = p - learning_rate * (g + l2 * p);
  }
};

struct MomentumRule {
  static constexpr int kStates = 1;
  float learning_rate, l2, momentum;

  MomentumRule(const UpdateRule& rule, double weight_decay)
      : learning_rate(static_cast<float>(rule.learning_rate)),
        l2(static_cast<float>(weight_decay)),
        momentum(static_cast<float>(rule.momentum)) {}

  constexpr void operator()(float g, float& p, float& s0, float&) const {
    s0 = momentum * s0 + (g + l2 * p);
    p = p - learning_rate * s0;
  }
};

// kTensors: 1 without momentum, 2 with it.
template <int kTensors>
struct RmsPropRule {
  static constexpr int kStates = kTensors;
  float learning_rate, l2, momentum, alpha, one_minus_alpha, eps;

  RmsPropRule(const UpdateRule& rule, double weight_decay)
      : learning_rate(static_cast<float>(rule.learning_rate)),
        l2(static_cast<float>(weight_decay)),
        momentum(static_cast<float>(rule.momentum)),
        alpha(static_cast<float>(rule.alpha)),
        one_minus_alpha(static_cast<float>(1.0 - rule.alpha)),
        eps(static_cast<float>(rule.eps)) {}

  constexpr void operator()(float g, float& p, float& s0, float& s1) const {
    g = g + l2 * p;
    s0 = alpha * s0 + one_minus_alpha * (g * g);
    const float scaled = g / (std::sqrt(s0) + eps);
    s1 = kTensors == 2 ? momentum * s1 + scaled : scaled;
    p = p - learning_rate * s1;
  }
};

// Chen et al. 2023. sign(0) is 0; a NaN stays one.
struct LionRule {
  static constexpr int kStates = 1;
  float learning_rate, one_minus_beta1, one_minus_beta2, decay;

  LionRule(const UpdateRule& rule, double weight_decay)
      : learning_rate(static_cast<float>(rule.learning_rate)),
        one_minus_beta1(static_cast<float>(1.0 - rule.beta1)),
        one_minus_beta2(static_cast<float>(1.0 - rule.beta2)),
        decay(static_cast<float>(1.0 - rule.learning_rate * weight_decay)) {}

  constexpr void operator()(float g, float& p, float& s0, float&) const {
    const float u = s0 + one_minus_beta1 * (g - s0);
    const float sign = u > 0.0F ? 1.0F : (u < 0.0F ? -1.0F : u);
    s0 = s0 + one_minus_beta2 * (g - s0);
    p = p * decay - learning_rate * sign;
  }
};

// Of torch.optim.Muon, behind its iterations: g is their result times the adjustment of its matrix.
struct MuonRule {
  static constexpr int kStates = 0;
  float learning_rate, decay;

  MuonRule(const UpdateRule& rule, double weight_decay)
      : learning_rate(static_cast<float>(rule.learning_rate)),
        decay(static_cast<float>(1.0 - rule.learning_rate * weight_decay)) {}

  constexpr void operator()(float g, float& p, float&, float&) const {
    p = p * decay - learning_rate * g;
  }
};

// A NaN fails both comparisons and stays.
constexpr float clamped(float g, float bound) {
  return g < -bound ? -bound : (g > bound ? bound : g);
}

// Calls f(Rule) with the constants of the rule.
template <typename F>
void visit_rule(const UpdateRule& rule, double weight_decay, F&& f) {
  switch (rule.kind) {
    case OptimizerKind::kAdamW:
    case OptimizerKind::kAdam:
      return f(AdamRule(rule, weight_decay));
    case OptimizerKind::kSgd:
      if (rule.momentum > 0.0) return f(MomentumRule(rule, weight_decay));
      return f(SgdRule(rule, weight_decay));
    case OptimizerKind::kRmsProp:
      if (rule.momentum > 0.0) return f(RmsPropRule<2>(rule, weight_decay));
      return f(RmsPropRule<1>(rule, weight_decay));
    case OptimizerKind::kLion:
      return f(LionRule(rule, weight_decay));
    case OptimizerKind::kMuon:
      return f(MuonRule(rule, weight_decay));
  }
}

}  // namespace lockstep::ops
