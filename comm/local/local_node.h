#pragma once

#include <chrono>
#include <memory>
#include <string_view>

#include "comm/communicator.h"
#include "comm/exchange/control_block.h"

namespace lockstep::comm {

// The control block of a group of ranks in one process. Every rank's communicator holds it.
class LocalMemory {
 public:
  explicit LocalMemory(int ranks);
  ~LocalMemory();
  LocalMemory(const LocalMemory&) = delete;
  LocalMemory& operator=(const LocalMemory&) = delete;

  int ranks() const { return ranks_; }
  ControlBlock control() const { return control_; }
  std::size_t bytes() const { return ControlBlock::bytes(ranks_); }

 private:
  int ranks_;
  void* memory_;
  ControlBlock control_;
};

// Rank `rank` of the group: one address space, so that every address is readable by every peer.
std::unique_ptr<Communicator> make_local_communicator(std::string_view backend,
                                                      std::shared_ptr<LocalMemory> memory, int rank,
                                                      std::chrono::milliseconds timeout);

}  // namespace lockstep::comm
