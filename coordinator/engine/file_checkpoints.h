#pragma once

#include "coordinator/engine/checkpoints.h"
#include "core/log.h"

namespace lockstep::coordinator {

// Checkpoints in OUTPUT/checkpoints, as `lockstep train` writes and reads them.
class FileCheckpoints final : public Checkpoints {
 public:
  explicit FileCheckpoints(core::Logger& log) : log_(log) {}

  std::optional<CheckpointInfo> newest_verified(const std::string& output) override;
  std::optional<CheckpointInfo> verify(const std::string& output, std::int64_t step) override;
  std::vector<CheckpointInfo> list(const std::string& output, bool verify) override;

 private:
  core::Logger& log_;
};

}  // namespace lockstep::coordinator
