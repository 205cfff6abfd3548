#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/report/curve.h"
#include "runtime/report/line_follower.h"

namespace lockstep::runtime {

// A step that was not applied: from the ledger, and why, from metrics.jsonl.
struct UnappliedStep {
  std::int64_t step = 0;
  std::string outcome;  // "overflow", as in the ledger
  double loss_scale = 1.0;
  double next_loss_scale = 1.0;
};

// One statistic of all layers: values[layer][k] belongs to steps[k]; NaN where a line has none.
struct LayerHistory {
  std::vector<std::string> names;  // "embeddings", "block.0", ..., "head"
  std::vector<double> steps;
  std::map<std::string, std::vector<std::vector<double>>> values;  // by statistic: "grad_norm"
};

// What the files of a run tell of its past, as curves over the steps. Reads runs in progress too:
// refresh() takes in what has been written since.
class RunCurves {
 public:
  explicit RunCurves(std::filesystem::path directory);
  RunCurves(RunCurves&&) = default;  // step_curves_ stay where they are: a map's nodes do not move
  RunCurves& operator=(RunCurves&&) = default;

  // True when there is something new. Throws Error(kData), naming file and line, for a line that the
  // run cannot have written.
  bool refresh();

  const std::filesystem::path& directory() const { return directory_; }
  bool has_metrics() const { return metrics_.lines() > 0; }
  // "loss", "grad_norm", "clip_coefficient", "learning_rate", "loss_scale", "tokens_per_second",
  // "overflow" (the scale of the steps that overflowed), "validation", "ema_validation",
  // "data_seconds", "compute_seconds", "wait_seconds" (means over ranks); and, summed since the start
  // of the run, "tokens" and "seconds". x is the step. An absent one is empty.
  const Curve& curve(const std::string& name) const;
  const std::map<std::string, Curve>& curves() const { return curves_; }
  const LayerHistory& layers() const { return layers_; }
  const std::vector<UnappliedStep>& unapplied() const { return unapplied_; }
  // "rank 0, block.2.attention.qkv.weight, scale 65536 -> 32768"
  std::string reason(const UnappliedStep& step) const;
  std::int64_t steps() const { return last_step_; }
  // The lines of these events, null before there is one.
  const nlohmann::ordered_json& run_line() const { return run_line_; }
  const nlohmann::ordered_json& memory_line() const { return memory_line_; }

 private:
  void take_metrics(std::string_view line);
  void take_step(std::string_view line);
  void take_event(const nlohmann::ordered_json& line);
  void take_layers(const nlohmann::ordered_json& line);
  void take_ledger(std::string_view line);
  void forget_metrics();
  // A run that goes back writes steps anew: what was known of them and later ones is dropped.
  void forget_from(double step);

  std::filesystem::path directory_;
  LineFollower metrics_;
  LineFollower ledger_;
  std::map<std::string, Curve> curves_;
  std::vector<Curve*> step_curves_;  // in curves_, in the order of the fields of a step line
  LayerHistory layers_;
  std::vector<UnappliedStep> unapplied_;
  std::map<std::int64_t, std::string> details_;  // what metrics.jsonl says of a step not applied
  nlohmann::ordered_json run_line_;
  nlohmann::ordered_json memory_line_;
  std::int64_t last_step_ = 0;
};

}  // namespace lockstep::runtime
