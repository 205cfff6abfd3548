#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/checkpoint/manifest.h"
#include "runtime/config/config.h"

// A replay bundle is a directory OUTPUT/replay/step-00000123 (version 1): all that it takes to
// compute one step again, in one process, without the run's data files and checkpoints:
//   weights.safetensors  the parameters used in the step, whole, in the compute type, canonical
//                        names
//   batch.safetensors    `inputs` and `targets`: i32 [batch.global, model.context], the step's
//                        sequences in global order
//   config.yaml          the resolved configuration; with the step it keys dropout and the drills
//   manifest.json        written last: sizes and XXH3-64 of the files above and of itself, and
//                        ReplayRecord
// Written by rank 0 alone: it holds the weights, can deal every rank's tokens and has the reports.
// First as step-00000123.tmp-PID, then renamed. It is not forced to disk: what a loss of power
// tears, the hashes show.
namespace lockstep::runtime {

inline constexpr int kReplayVersion = 1;
inline constexpr const char* kReplayDirectory = "replay";  // below OUTPUT
inline constexpr const char* kReplayWeightsFile = "weights.safetensors";
inline constexpr const char* kReplayBatchFile = "batch.safetensors";

// Elements that are inf or NaN, where a rank first found them.
struct RecordedNonFinite {
  std::string bucket;  // "block.7"; empty: nothing found
  std::string tensor;
  std::int64_t inf = 0;
  std::int64_t nan = 0;

  bool operator==(const RecordedNonFinite&) const = default;
};

// What one rank reported. Numbers that were not finite are NaN.
struct RecordedRank {
  double loss_sum = 0.0;  // optimised, over its counted tokens, unscaled
  std::int64_t counted = 0;
  std::int64_t nonfinite_losses = 0;  // micro-batches
  std::int64_t nonfinite_layer = 0;   // of the first of them: ops::LossSums::nonfinite_layer
  double sum_of_squares = 0.0;        // of its shard of the aggregated, scaled gradient
  RecordedNonFinite own;              // in its own gradient, before any reduction

  bool operator==(const RecordedRank&) const = default;
};

// What the run decided in the step, and from what.
struct ReplayRecord {
  std::int64_t step = 0;  // attempt, 1-based
  std::int64_t data_position = 0;
  std::string outcome;   // "overflow", "diverged", "spike", ...
  bool stopped = false;  // the decision ended the run
  double loss_scale = 1.0;
  double learning_rate = 0.0;
  double loss = 0.0;       // NaN when not finite
  double grad_norm = 0.0;  // likewise
  std::int64_t counted = 0;
  std::uint64_t config_fingerprint = 0;
  std::string build;  // version and commit of the binary
  std::vector<RecordedRank> ranks;

  int world_size() const { return static_cast<int>(ranks.size()); }
};

// The version and commit of this binary, as in ReplayRecord::build.
std::string replay_build();

// The text of a bundle's manifest.json.
std::string replay_manifest_text(const ReplayRecord& record,
                                 const std::vector<ManifestFile>& files);

struct ReplayBundle {
  std::string directory;
  ReplayRecord record;
  Config config;  // of the run, as resolved
};
// Reads the manifest, checks every file against it, reads the configuration. Throws Error(kData)
// naming the file and what is wrong: absent, torn, altered, of another version.
ReplayBundle read_replay_bundle(const std::string& directory);

}  // namespace lockstep::runtime
