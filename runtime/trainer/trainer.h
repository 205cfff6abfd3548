#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "core/log.h"
#include "core/memory.h"
#include "models/parameter_table.h"
#include "models/transformer.h"
#include "ops/op_context.h"
#include "ops/results.h"
#include "runtime/checkpoint/checkpoint_saver.h"
#include "runtime/config/config.h"
#include "runtime/data/token_dataset.h"
#include "runtime/device/backend_device.h"
#include "runtime/drills/fault_injector.h"
#include "runtime/health/layer_statistics.h"
#include "runtime/health/parameter_guard.h"
#include "runtime/health/straggler_watch.h"
#include "runtime/metrics/run_recorder.h"
#include "runtime/metrics/step_timer.h"
#include "runtime/metrics/timing_log.h"
#include "runtime/optimizer/sharded_update.h"
#include "runtime/optimizer/weight_average.h"
#include "runtime/replay/replay_writer.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/sharding/gradient_buckets.h"
#include "runtime/sharding/gradient_norm.h"
#include "runtime/sharding/kept_parameters.h"
#include "runtime/sharding/model_state.h"
#include "runtime/step/device_decision.h"
#include "runtime/step/step_decision.h"
#include "runtime/trainer/run_monitor.h"
#include "runtime/trainer/stop_points.h"

namespace lockstep::runtime {

// What one run has reached: everything but weights and optimizer state that a checkpoint must hold
// to continue it.
struct RunProgress {
  std::int64_t step = 0;             // attempts done
  std::int64_t data_position = 0;    // sequences dealt
  std::int64_t optimizer_since = 0;  // CheckpointState::optimizer_since
  DecisionState decision;
};

// Trains one run on one rank of a communicator, in lockstep with the others (docs/architecture.md,
// "One step").
class Trainer {
 public:
  // Everything that a rank needs is allocated here. All ranks construct together. On a device the
  // communicator must serve its memory.
  Trainer(const Config& config, int threads, comm::Communicator& communicator,
          core::MemoryTracker& memory, core::Logger& log, const BackendDevice& device = {});
  ~Trainer();

  // Either of these before run(): fresh weights (or model.init_from), or a checkpoint directory.
  // `run_line`: the members of the first line of metrics.jsonl. Throw AgreedError when any rank
  // cannot read what it needs.
  void start(const std::string& run_line);
  void resume(const std::string& checkpoint, const std::string& run_line);

  // Which start of this OUTPUT this is; the faults throw, kill and hang fire only in the first.
  void set_attempt(std::int64_t attempt);
  // A signal number other than 0 in `flag`, on any rank, stops the run at the next step boundary on
  // all.
  // Where a step or a validation takes long, they leave it: nothing of it counts.
  void listen_to(const std::atomic<int>& flag);
  // Rank 0's progress bar goes there too; empty: it is taken away.
  void show_progress(std::function<void(const std::string& text)> show) {
    recorder_.show_progress(std::move(show));
  }
  // For a thread that watches this rank and passes requests on.
  RunMonitor& monitor() { return monitor_; }

  // Trains until train.steps attempts are done or a decision stops the run; then throws the Error
  // that all ranks agreed on.
  void run();

  // One attempt, whole; none may be under way. Advances progress(). Throws on desync; on the CPU
  // before anything is changed, on a device after the step that shows it.
  StepDecision step();
  // Launches the next attempt if it may be launched now, and settles the oldest one under way
  // unless another may be launched behind it: on a device the host lets one step run ahead of it.
  // The decision of the step that was settled, if any: it advances progress().
  std::optional<StepDecision> advance();
  // Settles the oldest attempt under way; there must be one.
  StepDecision settle() { return settle_step(); }
  // Attempts that have been launched: those of progress(), and those under way.
  std::int64_t launched() const {
    return progress_.step + static_cast<std::int64_t>(under_way_.size());
  }

  // Mean plain cross-entropy over the validation batches (train.validate_batches), the same on
  // every rank.
  double validate();
  // The same of the averaged weights (ema); nothing without them.
  std::optional<double> validate_average();

  // Saves a checkpoint and waits until it is whole.
  void save_checkpoint();

  // A `health` line of metrics.jsonl with these members.
  void tell_health(const std::string& fields);

  // Where the time of this rank's steps went since the last call, as far as it is done.
  PhaseSeconds take_phases() { return timer_.take_phases(); }
  // Of these, Newton-Schulz (ShardedUpdate::take_iteration_seconds()).
  double take_iteration_seconds() { return update_.take_iteration_seconds(); }

  const RunProgress& progress() const { return progress_; }
  ModelState& state() { return *state_; }
  const models::ParameterTable& table() const { return table_; }
  ops::OpContext& context() { return context_; }

 private:
  // An attempt that has been launched and whose decision the host has not taken, or replayed, yet.
  struct StepUnderWay {
    std::int64_t number = 0;
    int mirror = 0;                  // where its results are fetched to (ops::Results)
    bool left_out = false;           // by a rollback: nothing is computed
    std::int64_t first_applied = 0;  // applied steps that the host knew of when it was launched
  };

  void open_data();
  void tell_of_average() const;
  void set_initial_weights();
  void set_up_device(const BackendDevice& device, int threads);
  bool decides_on_device() const { return device_decision_ != nullptr; }
  static std::size_t mirror_of(const StepUnderWay& step) {
    return static_cast<std::size_t>(step.mirror);
  }
  bool may_launch() const;
  bool ends_in_order(std::int64_t step) const;
  StepUnderWay next_step() const;
  void launch_step();
  StepUnderWay wait_for_oldest();
  StepDecision settle_step();
  void apply_on_device(const StepUnderWay& step);
  double confirm(const StepUnderWay& step, StepDecision& decision);
  void drop_steps_under_way();
  void tell_device_state();
  void compute_gradients(std::int64_t step);
  void accumulate_gradients(std::int64_t step);
  models::MicroBatch load_micro_batch(std::int64_t step, std::int64_t round);
  std::int64_t data_position(std::int64_t step) const;
  void watch_parameters(const StepUnderWay& step);
  void measure_gradients(const StepUnderWay& step);
  StepReport form_report(const StepUnderWay& step);
  void add_up_step(int mirror, StepReport& report) const;
  bool verifies(std::int64_t step) const;
  RunView view_of_run() const;
  void refuse_desync(const StepDecision& decision);
  double apply(StepDecision& decision);
  UpdateFactors update_factors(StepDecision& decision, int mirror, double& coefficient);
  ops::LossOptions loss_options() const;
  std::vector<double> tensor_norms(double unscale, int mirror);
  LargestGradient largest_gradient(double unscale, int mirror);
  void flip_bit_if_asked(std::int64_t step);
  void keep_for_replay(const StepDecision& decision, const std::vector<StepReport>& reports);
  void stop_if_decided(const StepDecision& decision) const;
  std::string culprit_text(const StepDecision& decision) const;
  std::string broken_text(const StepDecision& decision) const;
  void examine_level(std::int64_t step, StepDecision& decision);
  std::string spike_text() const;
  void stop_for_spike(const std::string& cause) const;
  void roll_back(const StepDecision& decision);
  CheckpointManifest checkpoint_to_go_back_to(const StepDecision& decision);
  void go_back_to(const CheckpointManifest& manifest, const Rollbacks& rollbacks);
  Rollbacks agreed_rollbacks(const CheckpointManifest& manifest, bool same_output);
  OptimizerChange continue_from(const CheckpointManifest& manifest, const RecordPosition& position,
                                const ResumePoint* resumed = nullptr);
  std::string set_up_member() const;
  std::string run_line_with_set_up(const std::string& run_line) const;
  std::uint32_t control_requests();
  bool stop_asked() const;
  [[noreturn]] void stop_as_requested();
  bool validation_due() const;
  void validate_as_owed();
  void run_steps();
  void validate_and_save(const StepDecision& decision);
  void begin_save();
  void finish_save();
  void give_up_save(const core::Error& error);  // within its handler
  bool checkpoint_due(std::int64_t step) const;
  void report_memory();
  void report_timings(std::int64_t step, const std::vector<StepReport>& reports);
  void observe_layers(std::int64_t step);
  void measure_layers(std::int64_t step);
  UpdateChanges* changes_to_keep();
  void report_layers(const StepUnderWay& step, const StepRecord& record);

  const Config& config_;
  comm::Communicator& communicator_;
  core::MemoryTracker& memory_;
  core::Logger& log_;

  models::ParameterTable table_;
  BucketLayout layout_;
  GradientPlan plan_;
  DecisionRules rules_;
  std::uint64_t fingerprint_;
  std::uint64_t set_up_;
  ops::OpContext context_;
  FaultInjector faults_;
  std::unique_ptr<ModelState> state_;
  StopPoints stop_points_;
  std::unique_ptr<GradientBuckets> gradients_;
  ShardedUpdate update_;
  WeightAverage average_;
  std::unique_ptr<models::Transformer> model_;
  ParameterGuard guard_;
  std::unique_ptr<TokenDataset> train_data_;
  std::unique_ptr<TokenDataset> validation_data_;
  RunRecorder recorder_;
  StepTimer timer_;
  TimingLog timing_log_;
  StragglerWatch stragglers_;
  ReplayWriter replay_writer_;

  CheckpointSaver saver_;
  std::int64_t saving_step_ = 0;  // of the checkpoint in flight
  bool checkpoint_owed_ = false;  // asked for, and not saved yet
  bool due_owed_ = false;         // of it, one that the configuration wants
  bool save_may_fail_ = false;    // of the one in flight: only somebody outside asked for it
  std::int64_t whole_step_ = -1;  // of the newest checkpoint that is whole
  bool validation_owed_ = false;  // due after progress_.step, and not done

  std::deque<StepUnderWay> under_way_;  // oldest first
  bool held_ = false;  // until none is under way: somebody asked for a checkpoint or a stop
  // Of a device; else null:
  const DecisionBodies* decision_bodies_ = nullptr;
  std::unique_ptr<DeviceDecision> device_decision_;
  std::unique_ptr<KeptParameters> kept_;  // rank 0, while bundles of broken steps are written
  std::array<core::DeviceEvent, kStepsUnderWay> reached_;  // by mirror: the end of a step's work

  RunProgress progress_;
  std::string first_spike_;  // of those since the last healthy step, in words
  std::string spoilt_;       // why what looked like a level is none, in words
  RunMonitor monitor_;
  const std::atomic<int>* stop_flag_ = nullptr;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point step_begin_ = started_;  // of step_seconds
  std::vector<std::int32_t> inputs_;                             // [micro * context]
  std::vector<std::int32_t> targets_;                            // [micro * context]
  ops::Results<ops::LossSums> losses_;                           // of this step's rounds
  ShardNorm shard_norm_;                                         // of this step's gradient shard
  std::unique_ptr<LayerStatistics> layers_;                      // null where no layer is measured
};

}  // namespace lockstep::runtime
