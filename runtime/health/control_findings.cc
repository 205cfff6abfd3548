#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/health/findings.h"

namespace lockstep::runtime {

namespace {

constexpr std::size_t kLeastSteps = 20;

double loss_of(const StepPoint& point) {
  return point.loss;
}

// Whether a coefficient below 1 tells of clipping.
bool tells_of_clipping(const Config& config) {
  return config.clip.mode != ClipMode::kNone && config.clip.mode != ClipMode::kValue;
}

double clipped_share(std::span<const StepPoint> points) {
  const auto clipped = std::count_if(points.begin(), points.end(),
                                     [](const StepPoint& p) { return p.clip_coefficient < 1.0; });
  return static_cast<double>(clipped) / static_cast<double>(points.size());
}

// Overflows of a run that scales its loss, without those at its start that find the first scale.
std::vector<StepPoint> overflows(const RunHistory& history) {
  std::vector<StepPoint> found;
  bool applied = false;
  for (const StepPoint& point : history.steps) {
    applied = applied || point.applied();
    if (applied && point.outcome == "overflow") found.push_back(point);
  }
  return found;
}

std::vector<std::string> buckets_of(const std::vector<StepPoint>& points) {
  std::vector<std::string> buckets;
  for (const StepPoint& point : points) {
    const std::string& bucket = point.overflow_bucket;
    if (!bucket.empty() && std::find(buckets.begin(), buckets.end(), bucket) == buckets.end())
      buckets.push_back(bucket);
  }
  return buckets;
}

// The median over blocks and lines; NaN without lines.
double update_ratio(const RunHistory& history) {
  std::vector<double> values;
  for (const LayerMedian& m : layer_medians(history, &Measured::update_ratio)) {
    if (is_block(m.layer)) values.push_back(m.value);
  }
  return median(std::move(values));
}

Finding rate_finding(const RunHistory& history) {
  Finding finding;
  finding.first_step = history.steps.front().step;
  finding.last_step = history.steps.back().step;
  return finding;
}

}  // namespace

std::optional<Finding> find_clipping_always(const RunHistory& history) {
  const std::vector<StepPoint> applied = applied_steps(history);
  if (!tells_of_clipping(history.config) || applied.size() < kLeastSteps) return std::nullopt;
  const auto half = part_of(applied, 1, 2);
  const double share = clipped_share(half);
  const double coefficient =
      median(values_of(half, [](const StepPoint& p) { return p.clip_coefficient; }));
  if (share < 0.95 || coefficient > 0.5) return std::nullopt;
  const double norm = median(values_of(half, [](const StepPoint& p) { return p.grad_norm; }));
  Finding finding;
  finding.first_step = half.front().step;
  finding.last_step = half.back().step;
  finding.evidence = fmt::format(
      "{:.0f} % of the last {} applied steps were clipped, to {:.2g} of their norm in the median; "
      "the median norm is {:.3g}, the threshold {}",
      100.0 * share, half.size(), coefficient, norm, history.config.clip.threshold);
  finding.causes = {"a threshold below what gradients of this model and batch are",
                    "gradients that grew, for which see the other findings"};
  finding.advice = {{set_number("clip.threshold", std::max(0.01, 1.5 * norm)),
                     "half above the median norm: spikes are clipped, the rest is not"},
                    {"clip.mode=zclip", "follows the norm by itself"}};
  return finding;
}

std::optional<Finding> find_clipping_never(const RunHistory& history) {
  constexpr std::size_t kLeast = 100;
  const std::vector<StepPoint> applied = applied_steps(history);
  const ClipConfig& clip = history.config.clip;
  if (clip.mode != ClipMode::kGlobalNorm || applied.size() < kLeast) return std::nullopt;
  const std::span<const StepPoint> all(applied);
  if (clipped_share(all) > 0.0) return std::nullopt;
  double greatest = 0.0;
  for (const StepPoint& point : applied)
    greatest = std::max(greatest, point.grad_norm);
  if (clip.threshold < 10.0 * greatest) return std::nullopt;
  Finding finding;
  finding.severity = Severity::kInfo;
  finding.first_step = applied.front().step;
  finding.last_step = applied.back().step;
  finding.evidence =
      fmt::format("no step was clipped: the greatest norm is {:.3g}, the threshold {}", greatest,
                  clip.threshold);
  finding.causes = {"a threshold that protects from nothing"};
  finding.advice = {
      {set_number("clip.threshold", 3.0 * greatest), "three times the greatest norm"}};
  return finding;
}

std::optional<Finding> find_loss_scale_thrash(const RunHistory& history) {
  constexpr double kShare = 0.02;
  constexpr std::size_t kLeast = 4;
  const Config& config = history.config;
  if (config.precision.loss_scale.mode == LossScaleMode::kNone) return std::nullopt;
  const std::vector<StepPoint> found = overflows(history);
  const double share = static_cast<double>(found.size()) /
                       static_cast<double>(std::max<std::size_t>(1, history.steps.size()));
  if (found.size() < kLeast || share < kShare) return std::nullopt;
  Finding finding;
  finding.severity = share > 0.2 ? Severity::kError : Severity::kWarning;
  finding.first_step = found.front().step;
  finding.last_step = found.back().step;
  finding.layers = buckets_of(found);
  finding.evidence =
      fmt::format("{} of {} steps were skipped for an overflow after the first update",
                  found.size(), history.steps.size());
  const LossScaleConfig& scale = config.precision.loss_scale;
  if (scale.mode == LossScaleMode::kStatic) {
    finding.causes = {"a static loss scale that is too large"};
    finding.advice = {{"precision.loss_scale.mode=dynamic", "finds a scale that fits"}};
  } else {
    finding.causes = {"the scale grows again too soon after it was cut",
                      "gradients with rare large elements, in the layers named"};
    finding.advice = {{fmt::format("precision.loss_scale.growth_interval={}",
                                   std::max<std::int64_t>(2000, 4 * scale.growth_interval)),
                       "every growth costs a step when it fails"}};
  }
  add_bf16(history.config, "needs no loss scale", finding.advice);
  return finding;
}

std::optional<Finding> find_loss_scale_sinking(const RunHistory& history) {
  constexpr double kSunk = 1.0 / 64.0;
  const LossScaleConfig& scale = history.config.precision.loss_scale;
  const std::vector<StepPoint> applied = applied_steps(history);
  if (scale.mode != LossScaleMode::kDynamic || applied.size() < kLeastSteps) return std::nullopt;
  const double first = applied.front().loss_scale;
  const StepPoint& last = history.steps.back();
  const bool at_minimum = last.loss_scale <= scale.minimum && last.loss_scale < first;
  if (!at_minimum && last.loss_scale > kSunk * first) return std::nullopt;
  Finding finding;
  finding.severity = at_minimum ? Severity::kError : Severity::kWarning;
  finding.first_step = applied.front().step;
  finding.last_step = last.step;
  finding.layers = buckets_of(overflows(history));
  finding.evidence = fmt::format("the loss scale fell from {} to {}{}", first, last.loss_scale,
                                 at_minimum ? ", the least there is" : "");
  finding.causes = {"gradients that grow without bound: the run is about to diverge",
                    "activations or logits near the end of fp16"};
  finding.advice = {
      lower_learning_rate(history.config, 3.0, "what grows is often driven by long steps")};
  add_bf16(history.config, "has room for them", finding.advice);
  return finding;
}

std::optional<Finding> find_learning_rate_too_high(const RunHistory& history) {
  constexpr std::size_t kParts = 10;
  constexpr double kRise = 1.15;
  constexpr double kRatio = 0.3;
  const std::vector<StepPoint> applied = applied_steps(history);
  if (applied.size() < kLeastSteps) return std::nullopt;
  double best = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < kParts; ++i)
    best = std::min(best, median(values_of(part_of(applied, i, kParts), loss_of)));
  // A rate that is far too high has done its harm within the first tenth.
  const double start = applied.front().loss;
  best = std::min(best, start);
  const double last = median(values_of(part_of(applied, kParts - 1, kParts), loss_of));
  const double ratio = update_ratio(history);
  const bool rises = last > kRise * best;
  const bool rewrites = ratio > kRatio;
  if (!rises && !rewrites) return std::nullopt;
  Finding finding = rate_finding(history);
  finding.severity = rises ? Severity::kError : Severity::kWarning;
  finding.evidence =
      rises ? fmt::format("the median loss is {:.4g} in the last tenth of the steps and was {:.4g}",
                          last, best)
            : fmt::format("a step changes the weights of a block by {:.2g} of their norm", ratio);
  if (rises && !std::isnan(ratio))
    finding.evidence +=
        fmt::format("; a step changes a block's weights by {:.2g} of their norm", ratio);
  finding.causes = {"the learning rate is too high", "no warm-up, or too short a one",
                    "too small a batch for this learning rate"};
  const Config& config = history.config;
  const double factor = std::max(last > start ? 10.0 : 3.0, rewrites ? ratio / 0.03 : 0.0);
  finding.advice.push_back(lower_learning_rate(config, factor, "the first thing to try"));
  add_warmup(config, "the first steps of Adam are the longest", finding.advice);
  return finding;
}

std::optional<Finding> find_learning_rate_too_low(const RunHistory& history) {
  constexpr double kRatio = 2e-4;
  constexpr double kFall = 0.95;
  const std::vector<StepPoint> applied = applied_steps(history);
  const double ratio = update_ratio(history);
  if (applied.size() < kLeastSteps || !(ratio < kRatio)) return std::nullopt;
  const double first = median(values_of(part_of(applied, 0, 10), loss_of));
  const double last = median(values_of(part_of(applied, 9, 10), loss_of));
  if (last < kFall * first) return std::nullopt;
  Finding finding = rate_finding(history);
  finding.evidence = fmt::format(
      "a step changes the weights of a block by {:.2g} of their norm in the median (1e-3 is "
      "usual), "
      "and the loss went from {:.4g} to {:.4g}",
      ratio, first, last);
  finding.causes = {"the learning rate is too low",
                    "a schedule that has ended, or a warm-up as long as the run",
                    "an eps that is large beside the second moments' roots"};
  const Config& config = history.config;
  const double factor = std::clamp(1e-3 / std::max(ratio, 1e-9), 3.0, 1000.0);
  finding.advice.push_back(
      {set_number("optimizer.learning_rate",
                  config.optimizer.learning_rate * std::exp2(std::round(std::log2(factor)))),
       "brings updates to about 1e-3 of the weights"});
  if (config.optimizer.eps > 1e-6)
    finding.advice.push_back({"optimizer.eps=1e-8", "eps bounds the step from below"});
  return finding;
}

}  // namespace lockstep::runtime
