#include "comm/local/local_world.h"

#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace lockstep::comm {

LocalWorld::LocalWorld(int ranks, std::chrono::milliseconds timeout)
    : memory_(std::make_shared<LocalMemory>(ranks)), timeout_(timeout) {}

std::unique_ptr<Communicator> LocalWorld::join(int rank) const {
  return make_local_communicator("local", memory_, rank, timeout_);
}

void LocalWorld::run(const std::function<void(Communicator&)>& body, const Wrap& wrap) const {
  std::mutex mutex;
  std::exception_ptr first;
  const auto keep_first = [&] {
    const std::lock_guard lock(mutex);
    if (!first) first = std::current_exception();
  };
  // One that could not be wrapped is gone, which the peers see as a rank that left.
  const auto spread = [](const std::unique_ptr<Communicator>& communicator, core::ErrorKind kind,
                         const char* reason) {
    if (communicator != nullptr) communicator->abort(kind, reason);
  };
  const auto run_rank = [&](int rank) {
    std::unique_ptr<Communicator> communicator = join(rank);
    try {
      if (wrap) communicator = wrap(std::move(communicator));
      body(*communicator);
    } catch (const core::Error& error) {
      keep_first();
      spread(communicator, error.kind(), error.what());
    } catch (const std::exception& error) {
      keep_first();
      spread(communicator, core::ErrorKind::kInternal, error.what());
    }
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < size(); ++r)
    threads.emplace_back(run_rank, r);
  for (auto& thread : threads)
    thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace lockstep::comm
