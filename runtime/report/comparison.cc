#include "runtime/report/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/counted.h"
#include "core/error.h"
#include "runtime/report/welch.h"

namespace lockstep::runtime {
namespace {

constexpr double kConfidence = 0.95;
constexpr int kCurvePoints = 10;

// The validation loss over tokens instead of steps.
Curve validation_by_tokens(const ReportRun& run) {
  const Curve& validation = run.curves.curve("validation");
  if (validation.empty()) {
    throw core::Error(
        core::ErrorKind::kData,
        fmt::format("{}: expected validation lines in metrics.jsonl to compare, found "
                    "none: train with data.validation and train.validate_every",
                    run.curves.directory().string()));
  }
  Curve curve;
  for (std::size_t k = 0; k < validation.x.size(); ++k)
    curve.add(run.curves.curve("tokens").value(validation.x[k]), validation.y[k]);
  return curve;
}

std::size_t last_within(const Curve& curve, double tokens) {
  const auto above = std::upper_bound(curve.x.begin(), curve.x.end(), tokens * (1.0 + 1e-12));
  return static_cast<std::size_t>(std::max<std::ptrdiff_t>(above - curve.x.begin() - 1, 0));
}

ComparedRun compared(const ReportRun& run, const Curve& validation, double tokens) {
  const auto last = [](const Curve& curve) { return curve.empty() ? 0.0 : curve.y.back(); };
  const double all_tokens = last(run.curves.curve("tokens"));
  const double seconds = last(run.curves.curve("seconds"));
  ComparedRun result;
  result.label = run.label;
  result.seed = run.config ? run.config->run.seed : 0;
  const std::size_t k = last_within(validation, tokens);
  result.final_loss = validation.y[k];
  result.final_step = static_cast<std::int64_t>(run.curves.curve("validation").x[k]);
  result.tokens_per_second = all_tokens / seconds;
  const double ranks = run.ranks() > 0 ? run.ranks() : std::numeric_limits<double>::quiet_NaN();
  result.rank_seconds_per_million = 1e6 * seconds * ranks / all_tokens;
  return result;
}

void find_target(ComparedRun& run, const ReportRun& source, const Curve& validation,
                 double target) {
  const auto reached = std::find_if(validation.y.begin(), validation.y.end(),
                                    [&](double loss) { return loss <= target; });
  if (reached == validation.y.end()) return;
  const auto k = static_cast<std::size_t>(reached - validation.y.begin());
  run.steps_to_target = static_cast<std::int64_t>(source.curves.curve("validation").x[k]);
  run.tokens_to_target = validation.x[k];
}

std::vector<double> losses(const std::vector<ComparedRun>& runs) {
  std::vector<double> values;
  for (const ComparedRun& run : runs)
    values.push_back(run.final_loss);
  return values;
}

double mean_at(const std::vector<Curve>& curves, double tokens) {
  std::vector<double> values;
  for (const Curve& curve : curves)
    values.push_back(curve.value(tokens));
  return mean(values);
}

std::vector<ComparedPoint> aligned(const std::vector<Curve>& a, const std::vector<Curve>& b,
                                   double tokens) {
  double first = 0.0;
  for (const auto* group : {&a, &b})
    for (const Curve& curve : *group)
      first = std::max(first, curve.x.front());
  std::vector<ComparedPoint> points;
  for (int k = first < tokens ? 0 : kCurvePoints - 1; k < kCurvePoints; ++k) {
    const double at = first + (tokens - first) * k / (kCurvePoints - 1);
    points.push_back({at, mean_at(a, at), mean_at(b, at)});
  }
  return points;
}

std::ptrdiff_t not_finite(const std::vector<ComparedRun>& runs) {
  return std::count_if(runs.begin(), runs.end(),
                       [](const ComparedRun& run) { return !std::isfinite(run.final_loss); });
}

// "better" or "worse" by the sign of the difference.
void judge(Comparison& c, bool seeds_known) {
  const auto by_sign = [&] { return c.difference < 0.0 ? "better" : "worse"; };
  const std::ptrdiff_t lost_a = not_finite(c.a);
  const std::ptrdiff_t lost_b = not_finite(c.b);
  if (lost_a > 0 || lost_b > 0) {
    c.verdict = lost_a == lost_b ? "noise" : lost_b > lost_a ? "worse" : "better";
    c.reason = fmt::format("the final loss is not finite in {} of A and {} of B",
                           core::counted(lost_a, "run"), core::counted(lost_b, "run"));
  } else if (c.p_value) {
    const bool certain = *c.p_value < 1.0 - kConfidence;
    c.verdict = certain ? by_sign() : "noise";
    c.reason = fmt::format("p = {:.3g}, {} 0.05", *c.p_value, certain ? "below" : "not below");
  } else if (c.a.size() == 1 && c.b.size() == 1 && seeds_known && c.a[0].seed == c.b[0].seed) {
    c.verdict = c.difference == 0.0 ? "noise" : by_sign();
    c.reason = c.difference == 0.0
                   ? "same seed, and no difference at all"
                   : "same seed: the difference is the change alone; more seeds tell how far it "
                     "exceeds that between seeds";
  } else {
    c.verdict = "noise";
    c.reason =
        "fewer than two runs in a group, and not one pair of the same seed: the difference "
        "cannot be told from that between seeds; give more seeds";
  }
}

}  // namespace

Comparison compare_runs(const std::vector<ReportRun>& a, const std::vector<ReportRun>& b,
                        std::optional<double> target) {
  std::vector<Curve> curves_a, curves_b;
  for (const ReportRun& run : a)
    curves_a.push_back(validation_by_tokens(run));
  for (const ReportRun& run : b)
    curves_b.push_back(validation_by_tokens(run));
  Comparison c;
  c.tokens = std::numeric_limits<double>::infinity();
  for (const auto* group : {&curves_a, &curves_b})
    for (const Curve& curve : *group)
      c.tokens = std::min(c.tokens, curve.x.back());
  for (std::size_t i = 0; i < a.size(); ++i)
    c.a.push_back(compared(a[i], curves_a[i], c.tokens));
  for (std::size_t i = 0; i < b.size(); ++i)
    c.b.push_back(compared(b[i], curves_b[i], c.tokens));
  c.curve = aligned(curves_a, curves_b, c.tokens);
  const std::vector<double> first = losses(c.a), second = losses(c.b);
  c.difference = mean(second) - mean(first);
  c.target_loss = target ? *target : std::max(mean(first), mean(second));
  for (std::size_t i = 0; i < a.size(); ++i)
    find_target(c.a[i], a[i], curves_a[i], c.target_loss);
  for (std::size_t i = 0; i < b.size(); ++i)
    find_target(c.b[i], b[i], curves_b[i], c.target_loss);
  if (a.size() >= 2 && b.size() >= 2 && std::isfinite(c.difference)) {
    const WelchTest test = welch_test(first, second, kConfidence);
    c.p_value = test.p_value;
    c.low = test.low;
    c.high = test.high;
  }
  std::vector<const ReportRun*> all;
  for (const auto* group : {&a, &b})
    for (const ReportRun& run : *group)
      all.push_back(&run);
  c.config = differing_keys(all);
  judge(c, a[0].config && b[0].config);
  return c;
}

}  // namespace lockstep::runtime
