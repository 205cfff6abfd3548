#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/files/append_file.h"

namespace lockstep::runtime {

// What a `step` line of metrics.jsonl says (docs/operations.md lists the fields; the format is
// relied upon from outside).
struct StepMetrics {
  std::int64_t step = 0;  // attempts, from 1
  bool applied = false;
  std::int64_t applied_steps = 0;
  double loss = 0.0;                       // optimised, before the update; not finite -> null
  double grad_norm = 0.0;                  // before clipping
  std::optional<double> clip_coefficient;  // nothing on a skip
  double learning_rate = 0.0;              // of a skipped step: the one it would have used
  double loss_scale = 1.0;                 // used in this step
  bool overflow = false;
  bool diverged = false;
  std::int64_t tokens = 0;  // target tokens of all ranks
  double step_seconds = 0.0;
  // When overflow: the lowest rank whose own gradient was not finite (nothing: only the sum was),
  // and where.
  std::optional<int> overflow_rank;
  std::string overflow_bucket;
  std::string overflow_tensor;
};

// Writes OUTPUT/metrics.jsonl, one JSON object a line, `event` first; each line reaches the file at
// once. Only rank 0 owns one.
class MetricsWriter {
 public:
  // Appends to `path`, cut to `keep_bytes` first (0: a new file). Throws Error(kData) when that
  // cannot be done.
  MetricsWriter(const std::string& path, std::uint64_t keep_bytes);

  // Each returns the line as it was written, without its end.
  std::string step(const StepMetrics& metrics);
  std::string validation(std::int64_t step, double loss, std::optional<double> ema_loss = {});

  // Any other line: `fields` is the text of a JSON object's members after the event, e.g.
  // R"("step":3)".
  std::string event(const std::string& name, const std::string& fields);

  std::uint64_t sync() { return file_.sync(); }  // the length of the file in bytes

 private:
  AppendFile file_;
};

}  // namespace lockstep::runtime
