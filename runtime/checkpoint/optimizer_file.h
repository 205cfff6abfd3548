#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "models/parameter_table.h"
#include "runtime/checkpoint/safetensors_writer.h"
#include "runtime/checkpoint/snapshot.h"

namespace lockstep::runtime {

// Optimizer state in shards, optimizer-00000-of-00004.safetensors: one file for each rank that
// saved, with its slices of every bucket. A slice is a fp32 vector, elements [begin, end) of a
// parameter in canonical order, named "state0.<canonical parameter name>[begin:end]" (AdamW: state0
// and state1 are the first and second moment; "ema.<name>[begin:end]" is the moving average of the
// weights). Together they cover every parameter that is not frozen once.

// The name of a shard's file.
std::string optimizer_file_name(int rank, int world_size);

// This rank's shard, written and synced; Error(kStopped) soon after `abandoned` becomes true.
WrittenFile write_optimizer_file(const std::string& path, const models::ParameterTable& table,
                                 const Snapshot& snapshot, const std::atomic<bool>& abandoned);

// Sets what this rank owns from the shards of a checkpoint, written by any number of ranks; reads
// no more than that. sources[s]: which state of the shards is state s of the model; kNoSource:
// none, it begins at 0. Averages that the checkpoint does not have start from the masters, which
// are set already. Throws Error(kData) naming the tensor that is missing, unknown or not covered.
inline constexpr int kNoSource = -3;  // no number of a state
void read_optimizer_files(const std::vector<std::string>& paths, const std::vector<int>& sources,
                          const models::ParameterTable& table, ModelState& model);

// The moving averages of the weights in the shards of a checkpoint.
class StoredAverages {
 public:
  StoredAverages(const std::vector<std::string>& paths, const models::ParameterTable& table);
  ~StoredAverages();

  bool any() const;
  // Whole, fp32, in canonical order; false, and nothing read, for a parameter that was frozen.
  bool read(models::ParameterId id, std::vector<float>& values) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace lockstep::runtime
