#pragma once

#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "runtime/config/config.h"

namespace lockstep::launcher {

// A run that leaves nothing behind: its OUTPUT is a fresh directory (in TMPDIR, else /tmp) that
// goes when this does, it saves no checkpoints and does not validate. Ranks on several hosts need a
// TMPDIR that they share. Collective, construction and destruction.
class ScratchRun {
 public:
  // Alters `config` so. steps: that will be made, at most. synthetic: trains on random tokens
  // instead of data.train, uniform in [0, model.vocab), enough for all steps or 64 MiB of them.
  ScratchRun(runtime::Config& config, std::int64_t steps, bool synthetic,
             comm::Communicator& communicator);
  ~ScratchRun();
  ScratchRun(const ScratchRun&) = delete;
  ScratchRun& operator=(const ScratchRun&) = delete;

 private:
  void remove() noexcept;

  std::string directory_;
  bool owner_;
};

}  // namespace lockstep::launcher
