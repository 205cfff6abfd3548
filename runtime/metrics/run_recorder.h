#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/log.h"
#include "models/parameter_table.h"
#include "runtime/config/config.h"
#include "runtime/metrics/cut_lines.h"
#include "runtime/metrics/layer_lines.h"
#include "runtime/metrics/metrics_writer.h"
#include "runtime/metrics/progress_bar.h"
#include "runtime/metrics/resume_verifier.h"
#include "runtime/metrics/tensorboard_log.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/step/ledger.h"
#include "runtime/step/step_decision.h"

namespace lockstep::runtime {

// One finished step, as it is told to people, to metrics.jsonl and to the ledger.
struct StepRecord {
  RunView view;  // before the step
  StepDecision decision;
  double coefficient = 1.0;  // as applied; the smallest one for tensor_norm
  double seconds = 0.0;      // wall time of the step
  std::optional<std::vector<std::uint64_t>> parameter_hashes;  // on verified steps
};

// Lengths of the run's files up to some step: what a checkpoint remembers and a resume cuts back
// to.
struct RecordPosition {
  std::uint64_t metrics_bytes = 0;
  std::uint64_t ledger_bytes = 0;
  std::uint64_t chain_head = 0;
};

// Whether the files of the run in `output` reach `position`, and its ledger has passed it with that
// hash: whether a checkpoint taken there is of the past that they tell.
bool is_past_of(const std::string& output, const RecordPosition& position);

// Tells what happened: the log, the progress bar, metrics.jsonl and the ledger. Every rank keeps
// the ledger's chain; only rank 0 writes.
class RunRecorder {
 public:
  RunRecorder(const Config& config, const models::ParameterTable& table, const BucketLayout& layout,
              int rank, core::Logger& log);

  // Opens the run's files (rank 0), cut to `position` when the run is resumed or rolled back. Of a
  // resume in its own OUTPUT (`resumed`) what is cut is kept, and compared with the steps that
  // follow. step: attempts done at `position`.
  void open(const RecordPosition& position, std::int64_t step,
            const ResumePoint* resumed = nullptr);

  void step(const StepRecord& record);
  void validation(std::int64_t step, double loss, std::optional<double> ema_loss = {});
  void layers(const LayerReport& report, bool line, bool histograms);
  void event(const std::string& name, const std::string& fields);  // any other metrics line

  // Whether the files, once open, tell of the validation after this step: no later than what follows
  // a checkpoint. Rank 0; false on the others.
  bool told_validation(std::int64_t step) const;

  // Rank 0's progress bar is shown by this, instead of on stderr.
  void show_progress(std::function<void(const std::string& line)> show) {
    progress_.show_by(std::move(show));
  }

  // Rank 0, after a resume: whether the steps that were cut are promised to be the same again.
  bool bits_promised() const { return bits_promised_; }

  std::uint64_t chain_head() const { return ledger_.head(); }
  RecordPosition sync();  // everything so far is on disk when it returns

  // "overflow: rank 2, block 7 attention.qkv, 311 inf, scale 65536 -> 32768"
  std::string describe_overflow(const StepDecision& decision, double scale_before) const;
  // "loss 7.31 is above ...; most of the gradient is in block 7 attention.qkv (norm 51)"
  std::string describe_spike(const StepDecision& decision) const;

 private:
  std::optional<ResumeVerdict> append_to_ledger(const StepRecord& record);
  void write_metrics(const StepRecord& record);
  void tell(const std::optional<ResumeVerdict>& verdict);
  void tell_health(const StepRecord& record);
  void log_step(const StepRecord& record);
  std::string bucket_name(const NonFiniteReport& culprit) const;

  const Config& config_;
  const models::ParameterTable& table_;
  const BucketLayout& layout_;
  int rank_;
  core::Logger& log_;
  std::uint64_t fingerprint_;
  Ledger ledger_;
  std::unique_ptr<MetricsWriter> metrics_;     // rank 0
  std::optional<TensorBoardLog> tensorboard_;  // rank 0, with metrics.tensorboard
  std::optional<ResumeVerifier> verifier_;     // while there are cut lines to compare with
  bool bits_promised_ = true;
  ProgressBar progress_;
};

const char* name_of(StepOutcome outcome);  // "applied", "overflow", "diverged", "spike",
                                           // "no_tokens", "left_out", "desync"

}  // namespace lockstep::runtime
