#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "core/log.h"
#include "core/memory.h"
#include "models/parameter_table.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/checkpoint/snapshot.h"
#include "runtime/config/config.h"
#include "runtime/sharding/model_state.h"
#include "runtime/step/save_progress.h"

namespace lockstep::runtime {

// Saves checkpoints of a run, one at a time.
//
// begin() takes a snapshot on the main thread; a thread of each rank writes and syncs that rank's
// files, without any communication; finish(), again on the main thread, lets all ranks agree that
// every file is there, after which rank 0 writes the manifest and gives the directory its name.
// Nothing of an earlier checkpoint is touched before that; what fails on one rank is thrown on all,
// as an AgreedError, and leaves no temporary directory behind.
class CheckpointSaver {
 public:
  // states: ModelState::saved_states().
  CheckpointSaver(const Config& config, const models::ParameterTable& table,
                  const BucketLayout& layout, std::vector<int> states,
                  comm::Communicator& communicator, core::MemoryTracker& memory, core::Logger& log);
  // Gives up what is in flight, without waiting for more than one tensor: its directory keeps its
  // temporary name.
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  // The attempt of the run, which names directories of unfinished saves; from 1.
  void set_attempt(std::int64_t attempt) { attempt_ = attempt; }

  // Collective. Finishes the save in flight, if any, and starts one of `model`, whose all-gathers
  // are done. Throws AgreedError(kDiverged) naming the tensor when master weights are not finite,
  // AgreedError(kData) when the directory cannot be made.
  void begin(const CheckpointState& state, ModelState& model);

  // How far this rank's part of the save in flight is, for its step report.
  SaveProgress progress() const;
  bool in_flight() const { return in_flight_; }

  // Collective. Waits for every rank's part and publishes the checkpoint; nothing to do when none
  // is in flight. Throws AgreedError(kData).
  void finish();

  // Applied steps after which a checkpoint counts as healthy.
  static constexpr std::int64_t kGoodStepsToHealth = 10;
  // Collective, when a run continues from a checkpoint of its own OUTPUT: those up to `step` may
  // still become healthy. Those saved here are watched anyway. Throws AgreedError(kData).
  void watch_up_to(std::int64_t step);
  // The checkpoints after `step` belong to a past that is given up.
  void forget_after(std::int64_t step);
  // Collective, at a step boundary: marks the watched checkpoints that enough applied steps have
  // followed. Throws AgreedError(kData).
  void promote(std::int64_t step, std::int64_t applied_steps);

 private:
  void refuse_nonfinite(const CheckpointState& state, ModelState& model);
  void make_directory();
  void write_files() noexcept;
  void collect_files();
  void publish_checkpoint();

  const Config& config_;
  const models::ParameterTable& table_;
  comm::Communicator& communicator_;
  core::Logger& log_;
  std::string checkpoints_;  // OUTPUT/checkpoints
  Snapshot snapshot_;

  std::int64_t attempt_ = 1;
  bool in_flight_ = false;
  CheckpointState state_;
  std::string temporary_;  // the same on every rank
  std::thread writer_;
  std::atomic<bool> abandoned_{false};
  std::atomic<SaveProgress> progress_{SaveProgress::kNone};
  // Of the writer; read after it was joined.
  std::vector<ManifestFile> files_;
  std::exception_ptr failure_;
  std::vector<CheckpointAge> watched_;  // the same on every rank
};

}  // namespace lockstep::runtime
