#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/health/findings.h"

namespace lockstep::runtime {

namespace {

double loss_of(const StepPoint& point) {
  return point.loss;
}

// Applied steps that leap out of the 32 before them: by ten robust deviations, and a tenth.
std::vector<StepPoint> leaps(const std::vector<StepPoint>& applied) {
  constexpr std::size_t kWindow = 32;
  std::vector<StepPoint> found;
  for (std::size_t i = kWindow; i < applied.size(); ++i) {
    const auto window = values_of(std::span(applied).subspan(i - kWindow, kWindow), loss_of);
    const double center = median(window);
    const double limit = center + std::max(10.0 * robust_deviation(window), 0.1 * center);
    if (applied[i].loss > limit) found.push_back(applied[i]);
  }
  return found;
}

void add_layer_of(const std::string& tensor, std::vector<std::string>& layers) {
  if (tensor.empty()) return;
  std::size_t dot = tensor.find('.');
  if (is_block(tensor)) dot = tensor.find('.', dot + 1);
  const std::string layer = tensor.substr(0, dot);
  if (std::find(layers.begin(), layers.end(), layer) == layers.end()) layers.push_back(layer);
}

}  // namespace

std::optional<Finding> find_loss_spikes(const RunHistory& history) {
  Finding finding;
  std::vector<std::int64_t> steps;
  for (const HealthPoint& point : history.health) {
    if (point.kind != "spike") continue;
    steps.push_back(point.step);
    add_layer_of(point.largest_tensor, finding.layers);
  }
  for (const StepPoint& point : history.steps) {
    if (point.outcome == "spike") steps.push_back(point.step);
  }
  for (const StepPoint& point : leaps(applied_steps(history)))
    steps.push_back(point.step);
  std::sort(steps.begin(), steps.end());
  steps.erase(std::unique(steps.begin(), steps.end()), steps.end());
  if (steps.empty()) return std::nullopt;
  finding.first_step = steps.front();
  finding.last_step = steps.back();
  constexpr std::size_t kShown = 5;
  const auto shown = std::span(steps).first(std::min(kShown, steps.size()));
  finding.evidence = fmt::format("{} step{} whose loss or gradient norm leapt: {}{}", steps.size(),
                                 steps.size() == 1 ? "" : "s", fmt::join(shown, ", "),
                                 steps.size() > kShown ? ", ..." : "");
  finding.causes = {"a batch unlike the others (explain-step names its sequences)",
                    "the learning rate is at the edge of what the model bears",
                    "second moments that forget too slowly for a sudden change (beta2)"};
  const Config& config = history.config;
  if (config.clip.mode == ClipMode::kNone)
    finding.advice.push_back({"clip.mode=global_norm", "bounds what one batch can do"});
  else if (config.clip.mode == ClipMode::kGlobalNorm)
    finding.advice.push_back({"clip.mode=zclip", "clips by what the norm has lately been"});
  if (config.health.on_divergence == OnDivergence::kStop) {
    finding.advice.push_back({"health.on_divergence=skip", "a spike is left out and not the end"});
  }
  finding.advice.push_back(
      lower_learning_rate(config, 2.0, "if they come at the peak of the schedule"));
  return finding;
}

// Noise of batches has no memory; a step that overshoots is answered by the next one, so that the
// loss, less its trend, goes up and down by turns: its correlation from step to step is negative.
std::optional<Finding> find_oscillation(const RunHistory& history) {
  constexpr std::size_t kLeast = 100;
  constexpr double kCorrelation = -0.45;
  constexpr double kSize = 0.005;  // of the loss
  const std::vector<StepPoint> applied = applied_steps(history);
  if (applied.size() < kLeast || history.config.metrics.every_steps != 1) return std::nullopt;
  const auto half = part_of(applied, 1, 2);
  std::vector<double> rest;
  for (std::size_t i = 2; i + 2 < half.size(); ++i) {
    const double trend =
        (half[i - 2].loss + half[i - 1].loss + half[i].loss + half[i + 1].loss + half[i + 2].loss) /
        5.0;
    rest.push_back(half[i].loss - trend);
  }
  double products = 0.0;
  double squares = 0.0;
  for (std::size_t i = 0; i < rest.size(); ++i) {
    squares += rest[i] * rest[i];
    if (i > 0) products += rest[i] * rest[i - 1];
  }
  // Of noise without memory, less its mean over five points, it is -0.3.
  const double correlation = products / squares + 0.3;
  const double size = std::sqrt(squares / static_cast<double>(rest.size()));
  const double level = median(values_of(half, loss_of));
  if (!(correlation < kCorrelation) || size < kSize * level) return std::nullopt;
  Finding finding;
  finding.first_step = half.front().step;
  finding.last_step = half.back().step;
  finding.evidence = fmt::format(
      "the loss goes up and down by turns: correlation {:.2f} from step to step, by "
      "{:.2g} around {:.4g}",
      correlation, size, level);
  finding.causes = {"steps that are too long: each overshoots what the last one overshot",
                    "too much momentum for this learning rate"};
  const Config& config = history.config;
  finding.advice.push_back(lower_learning_rate(config, 3.0, "shorter steps settle"));
  if (config.schedule.name == ScheduleKind::kConstant)
    finding.advice.push_back({"schedule.name=cosine", "ends in short steps"});
  return finding;
}

std::optional<Finding> find_plateau(const RunHistory& history) {
  constexpr std::size_t kLeast = 40;  // steps
  const std::vector<StepPoint> applied = applied_steps(history);
  if (applied.size() < kLeast) return std::nullopt;
  const double start = median(values_of(part_of(applied, 0, 20), loss_of));
  const double before = median(values_of(part_of(applied, 2, 4), loss_of));
  const auto end = part_of(applied, 3, 4);
  const double last = median(values_of(end, loss_of));
  const bool stuck = std::abs(last - before) < 0.002 * std::abs(before);
  if (!stuck || !(last > 0.9 * start) || last > 1.05 * start) return std::nullopt;
  Finding finding;
  finding.first_step = part_of(applied, 2, 4).front().step;
  finding.last_step = end.back().step;
  finding.evidence = fmt::format(
      "the median loss is {:.4g} in the last quarter of the steps, {:.4g} in the one before, and "
      "began at {:.4g}",
      last, before, start);
  finding.causes = {"the learning rate is too low for anything to happen",
                    "or so high at the start that the weights have saturated",
                    "the data cannot be predicted from their context"};
  const double rate = history.config.optimizer.learning_rate;
  const auto ratios = layer_medians(history, &Measured::update_ratio);
  std::vector<double> values;
  for (const LayerMedian& m : ratios)
    values.push_back(m.value);
  const bool long_steps = median(values) > 0.02;
  finding.advice.push_back(
      {set_number("optimizer.learning_rate", long_steps ? rate / 10.0 : rate * 10.0),
       long_steps ? "updates are large and lead nowhere" : "longer steps"});
  return finding;
}

std::optional<Finding> find_overfitting(const RunHistory& history) {
  constexpr std::size_t kLeast = 3;
  constexpr double kRise = 1.02;
  const std::vector<ValidationPoint>& points = history.validations;
  if (points.size() < kLeast) return std::nullopt;
  const auto best = std::min_element(
      points.begin(), points.end(),
      [](const ValidationPoint& a, const ValidationPoint& b) { return a.loss < b.loss; });
  if (points.end() - best < 3 || !(points.back().loss > kRise * best->loss)) return std::nullopt;
  const std::vector<StepPoint> applied = applied_steps(history);
  std::vector<double> at_best;
  for (const StepPoint& point : applied) {
    if (std::abs(point.step - best->step) <= std::max<std::int64_t>(5, best->step / 20))
      at_best.push_back(point.loss);
  }
  const double then = median(at_best);
  const double now = median(values_of(part_of(applied, 19, 20), loss_of));
  if (!(now < then)) return std::nullopt;  // training got worse too: that is no overfitting
  Finding finding;
  finding.first_step = best->step;
  finding.last_step = points.back().step;
  finding.evidence = fmt::format(
      "validation loss rose from {:.4g} at step {} to {:.4g} at step {}, while training loss fell "
      "from {:.4g} to {:.4g}",
      best->loss, best->step, points.back().loss, points.back().step, then, now);
  finding.causes = {"the same data over and over: the model learns it by heart",
                    "a model too large for the data", "no regularisation"};
  const Config& config = history.config;
  finding.advice.push_back(
      {fmt::format("train.steps={}", best->step), "ends where validation was best"});
  if (config.model.dropout == 0.0)
    finding.advice.push_back({"model.dropout=0.1", "makes learning by heart harder"});
  finding.advice.push_back(
      {set_number("optimizer.weight_decay", std::max(0.1, 3.0 * config.optimizer.weight_decay)),
       "keeps weights small"});
  return finding;
}

}  // namespace lockstep::runtime
