#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/log.h"
#include "core/memory.h"
#include "models/parameter_table.h"
#include "runtime/config/config.h"
#include "runtime/data/token_file.h"
#include "runtime/metrics/run_recorder.h"
#include "runtime/sharding/model_state.h"
#include "runtime/step/step_decision.h"

// A checkpoint is a directory OUTPUT/checkpoints/step-00000100 (version 1):
//   model.safetensors                     fp32 master weights, Hugging Face names and layouts
//   optimizer-00000-of-00004.safetensors  fp32 optimizer state, one shard for each rank that saved
//   config.yaml                           the resolved configuration
//   config.json                           the model in the words of Hugging Face's Transformers,
//                                         where it has such a model: from_pretrained() then loads
//                                         the directory
//   manifest.json                         written last: sizes and XXH3-64 of the files above and of
//                                         itself, and CheckpointState
// It is written as step-00000100.tmp-ATTEMPT, every file fsynced, then renamed; so a directory of
// the final name is whole, unless something altered it afterwards, which the hashes show. Any
// number of ranks can read what any number has written.
namespace lockstep::runtime {

// Everything but tensors that continues a run.
struct CheckpointState {
  std::int64_t step = 0;  // attempts done
  DecisionState decision;
  RecordPosition position;  // metrics.jsonl and ledger.jsonl up to this step
  std::uint64_t config_fingerprint = 0;
  int world_size = 0;  // that wrote it
  std::uint64_t seed = 0;
  std::int64_t data_position = 0;  // sequences dealt
  // The applied steps after which the optimizer's state began at 0, as a resume with another
  // optimizer makes it: its bias corrections count from there.
  std::int64_t optimizer_since = 0;
  std::vector<DataFingerprint> training_files;
  std::string tokenizer;  // JSON text, empty when the data names none
};

// The directory's name for a step: "step-00000100".
std::string checkpoint_name(std::int64_t step);

// Writes OUTPUT/checkpoints/<name>, replaces OUTPUT/checkpoints/latest and removes what exceeds
// checkpoint.keep, waiting for all of it: CheckpointSaver's begin() and finish(). Collective.
void save_checkpoint(const Config& config, const models::ParameterTable& table, ModelState& model,
                     const CheckpointState& state, comm::Communicator& communicator,
                     core::MemoryTracker& memory, core::Logger& log);

// What a checkpoint says about itself. Throws Error(kData) when it is no whole checkpoint of a
// version that is known.
struct CheckpointManifest {
  std::string directory;
  CheckpointState state;
  std::string config_yaml;
};
CheckpointManifest read_manifest(const std::string& directory);

// Which states of the optimizer a run takes over from a checkpoint, by state_names(). Those
// that its own optimizer has and the checkpoint's has not begin at 0.
struct OptimizerChange {
  std::vector<std::string> kept;
  std::vector<std::string> begun;
  std::vector<std::string> dropped;

  bool any() const { return !begun.empty() || !dropped.empty(); }
  // "Adam's first moment and ... begin at 0; RMSProp's mean square is dropped"
  std::string describe() const;
};

// Loads weights and optimizer state of a checkpoint whose files verify_checkpoint() has passed; it
// checks names, shapes and dtypes, and no hashes.
OptimizerChange load_checkpoint(const CheckpointManifest& manifest,
                                const models::ParameterTable& table, const Config& config,
                                ModelState& model);

// Checks every file of a checkpoint against its manifest. Throws Error(kData) naming the file that
// is missing, torn or altered.
void verify_checkpoint(const CheckpointManifest& manifest);

// Whether a checkpoint lies in OUTPUT/checkpoints.
bool belongs_to(const CheckpointManifest& manifest, const std::string& output);

// Which checkpoints count when the newest is looked for.
enum class Wanted : std::uint8_t {
  kWhole,    // whole and verified
  kHealthy,  // of those, one that good steps have followed; kWhole's, with a warning, if there is
             // none
  kOnlyHealthy,  // kHealthy's, or none
};

// The whole and verified checkpoint of the greatest step in OUTPUT/checkpoints, if any, that no
// rollback has given up and that `fits` (none: all) accepts; those passed over are logged with the
// reason. Throws Error(kData) when the directory, or the list of rollbacks, cannot be read.
std::optional<CheckpointManifest> newest_whole_checkpoint(
    const std::string& output, core::Logger& log, Wanted wanted = Wanted::kWhole,
    const std::function<bool(const CheckpointManifest&)>& fits = nullptr);

// For `--resume auto`: the newest that is of the past which OUTPUT's metrics.jsonl and ledger.jsonl
// tell. After a resume from an older one by its path, checkpoints of the past given up lie there
// until they are replaced. Nothing when OUTPUT holds no whole checkpoint at all; Error(kData) when
// it holds some and none fits, because starting anew would throw them away.
std::optional<CheckpointManifest> checkpoint_to_continue(const std::string& output,
                                                         core::Logger& log, Wanted wanted);

// The whole checkpoints of OUTPUT up to `step` that are not marked healthy: step and applied steps.
struct CheckpointAge {
  std::int64_t step = 0;
  std::int64_t applied_steps = 0;
};
std::vector<CheckpointAge> unproven_checkpoints(const std::string& output, std::int64_t step);

}  // namespace lockstep::runtime
