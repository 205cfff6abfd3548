#pragma once

#include <optional>
#include <string>
#include <vector>

#include "coordinator/engine/requests.h"

namespace lockstep::coordinator {

// The checkpoints of a run's output directory, as the engine sees them. Calls may take as long as
// reading the files does.
class Checkpoints {
 public:
  virtual ~Checkpoints() = default;

  // The one of the greatest step whose files all have the sizes and hashes of its manifest; those
  // passed over are told to the log.
  virtual std::optional<CheckpointInfo> newest_verified(const std::string& output) = 0;

  // One step's; nothing when it is not there. `problem` says why it is not verified.
  virtual std::optional<CheckpointInfo> verify(const std::string& output, std::int64_t step) = 0;

  // All, newest first. Not verify: `verified` is false, only the manifest has been read.
  virtual std::vector<CheckpointInfo> list(const std::string& output, bool verify) = 0;
};

}  // namespace lockstep::coordinator
