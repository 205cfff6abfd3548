#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "runtime/files/append_file.h"
#include "runtime/metrics/layer_lines.h"
#include "runtime/metrics/metrics_writer.h"

namespace lockstep::runtime {

// Writes OUTPUT/tensorboard: event files that TensorBoard reads. Scalars `train/loss` and so on,
// `validation/loss`, `layers/block.3/grad_norm`, tensors `histograms/TENSOR`, and the configuration
// as text; what is not finite is left out. x is the step.
//
// Every open() begins a file of its own. Before that, what older files hold from `first_step` on is cut off,
// as it is from metrics.jsonl, and the new file begins with a START record for that step: so no
// reader finds a step twice, whichever rule it follows, and no step before is lost. Only rank 0 owns one.
class TensorBoardLog {
 public:
  explicit TensorBoardLog(std::string directory) : directory_(std::move(directory)) {}

  // first_step: the next one to be computed. Throws Error(kData) naming what cannot be read or
  // written, as do those below.
  void open(std::int64_t first_step, const std::string& config);

  void step(const StepMetrics& metrics);
  void validation(std::int64_t step, double loss, std::optional<double> ema_loss);
  void layers(const LayerReport& report);
  void histograms(const LayerReport& report);

  void sync() { file_.sync(); }

 private:
  std::string directory_;
  AppendFile file_;
  int opened_ = 0;  // by this process
};

}  // namespace lockstep::runtime
