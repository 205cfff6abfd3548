#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "runtime/config/config.h"
#include "runtime/metrics/layer_lines.h"

namespace lockstep::runtime {

// A `step` line and, where the ledger has the step, its outcome. NaN where a line says null.
struct StepPoint {
  std::int64_t step = 0;
  std::string outcome;  // as the ledger names it: "applied", "overflow", "spike", ...
  double loss = 0.0;
  double grad_norm = 0.0;
  double clip_coefficient = 0.0;
  double learning_rate = 0.0;
  double loss_scale = 1.0;
  std::int64_t tokens = 0;
  double step_seconds = 0.0;
  std::string overflow_bucket;  // empty: none
  std::string overflow_tensor;
  std::int64_t data_position = -1;  // sequences dealt before it; -1: the ledger has no such step

  bool applied() const { return outcome == "applied"; }
};

struct ValidationPoint {
  std::int64_t step = 0;
  double loss = 0.0;
};

// Mean seconds of a step by rank.
struct TimingPoint {
  std::int64_t step = 0;
  std::vector<double> data;
  std::vector<double> compute;
  std::vector<double> wait;
};

struct HealthPoint {
  std::int64_t step = 0;
  std::string kind;            // "spike", "vanishing_norm", ...
  std::string largest_tensor;  // of a spike
};

// What a run has left behind so far, steps ascending.
struct RunHistory {
  std::string directory;
  Config config;
  std::vector<StepPoint> steps;
  std::vector<ValidationPoint> validations;
  std::vector<LayerReport> layers;
  std::vector<TimingPoint> timings;
  std::vector<HealthPoint> health;
  std::vector<std::int64_t> replays;  // steps that have a replay bundle
  int ranks = 1;                      // of the last attempt
  double peak_bytes =
      std::numeric_limits<double>::quiet_NaN();  // of rank 0, once the run has ended

  bool finished() const { return !steps.empty() && steps.back().step >= config.train.steps; }
};

// Reads OUTPUT/config.yaml, metrics.jsonl and, if there is one, ledger.jsonl of a run, finished or in
// progress: a last line that is not whole yet is passed over. Throws Error(kData) naming file and line
// of what cannot be read.
RunHistory read_run_history(const std::string& directory);

}  // namespace lockstep::runtime
