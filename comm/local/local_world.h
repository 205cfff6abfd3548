#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "comm/communicator.h"
#include "comm/local/local_node.h"

namespace lockstep::comm {

// Ranks as threads of one process: the whole protocol without MPI, for tests and tools.
//
//   LocalWorld world(4, timeout);
//   world.run([](Communicator& comm) { ... });       // once on each of 4 threads
class LocalWorld {
 public:
  LocalWorld(int ranks, std::chrono::milliseconds timeout);

  int size() const { return memory_->ranks(); }

  // The communicator of one rank, to be used by one thread. One per rank and world: the group's
  // history is not reset.
  std::unique_ptr<Communicator> join(int rank) const;

  // Joins every rank on a thread of its own, calls body, and waits for all. What a body throws
  // aborts the group, so that the other ranks fail with that cause; the first cause is rethrown.
  // At most once per world. wrap: makes of a rank's communicator the one that body gets, as one for
  // a device.
  using Wrap = std::function<std::unique_ptr<Communicator>(std::unique_ptr<Communicator>)>;
  void run(const std::function<void(Communicator&)>& body, const Wrap& wrap = {}) const;

 private:
  std::shared_ptr<LocalMemory> memory_;
  std::chrono::milliseconds timeout_;
};

}  // namespace lockstep::comm
