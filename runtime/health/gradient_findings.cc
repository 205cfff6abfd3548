#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/health/findings.h"

namespace lockstep::runtime {

namespace {

std::vector<LayerMedian> blocks_of(std::vector<LayerMedian> medians) {
  std::erase_if(medians,
                [](const LayerMedian& m) { return !is_block(m.layer) || std::isnan(m.value); });
  return medians;
}

void set_steps(const RunHistory& history, Finding& finding) {
  finding.first_step = history.layers[history.layers.size() / 2].step;
  finding.last_step = history.layers.back().step;
}

std::vector<Advice> advice_for_depth(const Config& config) {
  std::vector<Advice> advice;
  if (config.model.norm_position == models::NormPosition::kPost) {
    advice.push_back({"model.norm_position=pre",
                      "a norm before each branch leaves the residual stream open for gradients"});
  }
  add_warmup(config, "small steps until the first layers have found their scale", advice);
  if (config.model.init != models::InitKind::kGpt2) {
    advice.push_back(
        {"model.init=gpt2", "residual outputs scaled by depth keep gradients even in depth"});
  }
  if (!config.model.qk_norm)
    advice.push_back({"model.qk_norm=true", "attention that has saturated passes no gradient"});
  return advice;
}

// fp16 holds nothing below 2^-24: what is smaller, as scaled, never reaches the weights.
std::optional<Finding> find_underflow(const RunHistory& history) {
  if (history.config.precision.compute != core::DType::kF16) return std::nullopt;
  constexpr double kLost = 0.3;
  Finding finding;
  const auto medians = layer_medians(history, &Measured::fp16_underflow_share);
  double worst = 0.0;
  for (const LayerMedian& m : medians) {
    if (!(m.value > kLost)) continue;
    finding.layers.push_back(m.layer);
    worst = std::max(worst, m.value);
  }
  if (finding.layers.empty()) return std::nullopt;
  set_steps(history, finding);
  std::vector<double> advised;
  for (const LayerReport& line : history.layers)
    advised.push_back(line.advised_loss_scale);
  finding.evidence = fmt::format(
      "at loss scale {} up to {:.0f} % of a layer's gradient is below 2^-24 and lost in fp16",
      history.layers.back().loss_scale, 100.0 * worst);
  finding.causes = {"the loss scale is too small for these gradients"};
  if (const double scale = median(advised); !std::isnan(scale)) {
    finding.advice.push_back({set_number("precision.loss_scale.initial", scale),
                              "the greatest that keeps the greatest element below 2^15"});
  }
  add_bf16(history.config, "has the exponents of fp32", finding.advice);
  return finding;
}

std::optional<Finding> find_fading(const RunHistory& history) {
  constexpr double kRatio = 0.03;
  const auto blocks = blocks_of(layer_medians(history, &Measured::grad_norm));
  if (blocks.size() < 2) return std::nullopt;
  const LayerMedian& first = blocks.front();
  const LayerMedian& last = blocks.back();
  if (!(last.value > 0.0) || first.value / last.value >= kRatio) return std::nullopt;
  Finding finding;
  for (const LayerMedian& block : blocks) {
    if (block.value < 0.1 * last.value) finding.layers.push_back(block.layer);
  }
  set_steps(history, finding);
  finding.evidence =
      fmt::format("median gradient norm {:.3g} in {} against {:.3g} in {}: a ratio of {:.2g}",
                  first.value, first.layer, last.value, last.layer, first.value / last.value);
  finding.causes = {
      "gradients shrink from block to block on their way down (post-norm, no warm-up)",
      "attention or activations have saturated", "an initialisation that does not fit the depth"};
  finding.advice = advice_for_depth(history.config);
  return finding;
}

}  // namespace

std::optional<Finding> find_vanishing_gradients(const RunHistory& history) {
  if (auto finding = find_underflow(history)) return finding;
  if (auto finding = find_fading(history)) return finding;
  Finding finding;
  for (const HealthPoint& point : history.health) {
    if (point.kind != "vanishing_norm") continue;
    if (finding.first_step == 0) finding.first_step = point.step;
    finding.last_step = point.step;
  }
  if (finding.first_step == 0) return std::nullopt;
  finding.severity = Severity::kError;
  finding.evidence = fmt::format("the norm of the whole gradient fell below {} at step {}",
                                 history.config.health.vanishing_norm, finding.first_step);
  finding.causes = {
      "nothing is left to learn in this data", "all units have died",
      "the loss does not depend on the weights (all targets ignored, frozen tensors)"};
  finding.advice = {lower_learning_rate(history.config, 10.0,
                                        "what kills units is often a first step that is too long")};
  return finding;
}

std::optional<Finding> find_exploding_gradients(const RunHistory& history) {
  constexpr std::size_t kLeast = 20;
  constexpr double kGrowth = 20.0;
  const std::vector<StepPoint> applied = applied_steps(history);
  if (applied.size() < kLeast) return std::nullopt;
  constexpr std::size_t kParts = 10;
  const auto norm = [](const StepPoint& p) { return p.grad_norm; };
  double least = std::numeric_limits<double>::infinity();
  std::size_t least_part = 0;
  for (std::size_t i = 0; i + 1 < kParts; ++i) {
    const double value = median(values_of(part_of(applied, i, kParts), norm));
    if (value < least) {
      least = value;
      least_part = i;
    }
  }
  const auto end = part_of(applied, kParts - 1, kParts);
  const double last = median(values_of(end, norm));
  const double limit = std::max(1.0, history.config.clip.threshold);
  if (!(last > kGrowth * least) || last < limit) return std::nullopt;
  Finding finding;
  finding.severity = Severity::kError;
  finding.first_step = part_of(applied, least_part, kParts).back().step;
  finding.last_step = end.back().step;
  finding.evidence =
      fmt::format("the median gradient norm grew from {:.3g} around step {} to {:.3g} at the end",
                  least, finding.first_step, last);
  auto blocks = blocks_of(layer_medians(history, &Measured::grad_norm));
  std::sort(blocks.begin(), blocks.end(),
            [](const LayerMedian& a, const LayerMedian& b) { return a.value > b.value; });
  for (std::size_t i = 0; i < std::min<std::size_t>(3, blocks.size()); ++i)
    finding.layers.push_back(blocks[i].layer);
  finding.causes = {"the learning rate is too high", "no clipping, or a threshold that is too high",
                    "logits of attention or head that grow without bound"};
  const Config& config = history.config;
  finding.advice.push_back(lower_learning_rate(config, 3.0, "the first thing to try"));
  if (config.clip.mode == ClipMode::kNone)
    finding.advice.push_back({"clip.mode=global_norm", "bounds what one step can do"});
  else if (config.clip.threshold > 1.0)
    finding.advice.push_back({"clip.threshold=1", "bounds what one step can do"});
  if (!config.model.qk_norm)
    finding.advice.push_back({"model.qk_norm=true", "bounds the logits of attention"});
  return finding;
}

std::optional<Finding> find_not_finite(const RunHistory& history) {
  const bool scales = history.config.precision.loss_scale.mode != LossScaleMode::kNone;
  Finding finding;
  std::int64_t diverged = 0;
  std::int64_t overflowed = 0;
  for (const StepPoint& point : history.steps) {
    const bool overflow = point.outcome == "overflow" && !scales;
    if (point.outcome != "diverged" && !overflow) continue;
    (overflow ? overflowed : diverged) += 1;
    if (finding.first_step == 0) finding.first_step = point.step;
    finding.last_step = point.step;
    const std::string& bucket = point.overflow_bucket;
    const auto known = std::find(finding.layers.begin(), finding.layers.end(), bucket);
    if (!bucket.empty() && known == finding.layers.end()) finding.layers.push_back(bucket);
  }
  if (diverged + overflowed == 0) return std::nullopt;
  finding.severity = Severity::kError;
  finding.evidence = fmt::format(
      "{} step{} with a loss that is not finite and {} with a gradient that is not, the first at "
      "{}",
      diverged, diverged == 1 ? "" : "s", overflowed, finding.first_step);
  finding.causes = {"the learning rate is too high: the weights left the range of the type",
                    "a batch with broken data (the replay bundle holds its tokens)",
                    "a fault of the machine (replay it: it should not happen again)"};
  finding.advice = {lower_learning_rate(history.config, 3.0, "if the norm grew before"),
                    {"health.on_divergence=rollback",
                     "goes back to the newest healthy checkpoint and leaves the step out"}};
  return finding;
}

std::optional<Finding> find_dead_units(const RunHistory& history) {
  constexpr double kDead = 0.25;
  Finding finding;
  double worst = 0.0;
  for (const LayerMedian& m : layer_medians(history, &Measured::dead_share)) {
    if (!(m.value > kDead)) continue;
    finding.layers.push_back(m.layer);
    worst = std::max(worst, m.value);
  }
  if (finding.layers.empty()) return std::nullopt;
  set_steps(history, finding);
  finding.evidence =
      fmt::format("up to {:.0f} % of a block's MLP units answer to no token", 100.0 * worst);
  finding.causes = {"steps that were too long pushed their inputs below zero for good",
                    "an activation without slope below zero",
                    "a bias or an initialisation far from zero"};
  const Config& config = history.config;
  if (config.model.activation == models::Activation::kRelu)
    finding.advice.push_back({"model.activation=gelu", "has a slope where relu has none"});
  finding.advice.push_back(lower_learning_rate(config, 3.0, "units die in long steps"));
  add_warmup(config, "the first steps of Adam are the longest", finding.advice);
  return finding;
}

}  // namespace lockstep::runtime
