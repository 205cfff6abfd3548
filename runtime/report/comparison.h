#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/report/report_run.h"

namespace lockstep::runtime {

// One run of a comparison.
struct ComparedRun {
  std::string label;
  std::uint64_t seed = 0;
  double final_loss =
      0.0;  // of the last validation within the tokens that all runs have; NaN: not finite
  std::int64_t final_step = 0;
  std::optional<std::int64_t> steps_to_target;  // of the first validation at or below the target
  std::optional<double> tokens_to_target;
  double tokens_per_second = 0.0;  // over the whole run
  double rank_seconds_per_million =
      0.0;  // seconds of all ranks for a million tokens; NaN: ranks not known
};

// Validation loss at a number of tokens, the mean of each group, linear between validations.
struct ComparedPoint {
  double tokens = 0.0;
  double a = 0.0;
  double b = 0.0;
};

struct Comparison {
  std::vector<ComparedRun> a;
  std::vector<ComparedRun> b;
  double tokens = 0.0;  // up to which runs are compared: what every run has validated
  std::vector<ComparedPoint> curve;
  double target_loss = 0.0;
  double difference = 0.0;        // mean final loss of b - that of a; NaN where one is not finite
  std::optional<double> p_value;  // Welch's test; nothing with fewer than two runs in a group
  double low = 0.0;               // of the 95 % confidence interval; with p_value only
  double high = 0.0;
  std::string verdict;  // of b against a: "better", "worse" or "noise"
  std::string reason;
  std::vector<DifferingKey> config;  // values of a's runs, then of b's
};

// Compares two groups of runs. `target`: the loss whose first reaching is looked for; nothing: the
// greater of the two mean final losses. Throws Error(kData) for a run without a validation line.
Comparison compare_runs(const std::vector<ReportRun>& a, const std::vector<ReportRun>& b,
                        std::optional<double> target);

}  // namespace lockstep::runtime
