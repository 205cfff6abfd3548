#include "comm/local/local_node.h"

#include <unistd.h>

#include <array>
#include <new>
#include <utility>

#include "comm/exchange/exchange_communicator.h"
#include "comm/exchange/node.h"
#include "core/check.h"
#include "core/processors.h"

namespace lockstep::comm {

LocalMemory::LocalMemory(int ranks) : ranks_(ranks) {
  LOCKSTEP_CHECK(ranks >= 1, "a group of {} ranks", ranks);
  memory_ = ::operator new (ControlBlock::bytes(ranks), std::align_val_t{64});
  control_ = ControlBlock::create(memory_, ranks);
}

LocalMemory::~LocalMemory() {
  ::operator delete (memory_, std::align_val_t{64});
}

namespace {

class LocalStorage : public SharedBuffer::Storage {
 public:
  explicit LocalStorage(core::Buffer buffer)
      : Storage(buffer.data(), buffer.bytes()), buffer_(std::move(buffer)) {}

 private:
  core::Buffer buffer_;
};

class LocalNode : public Node {
 public:
  LocalNode(std::shared_ptr<LocalMemory> memory, int rank)
      : memory_(std::move(memory)), rank_(rank) {}

  int ranks() const override { return memory_->ranks(); }
  int rank() const override { return rank_; }
  ControlBlock control() const override { return memory_->control(); }

  std::optional<Location> locate(const void* data, std::size_t) const override {
    return Location{0, reinterpret_cast<std::uintptr_t>(data)};
  }
  const std::byte* resolve(int, Location location) const override {
    return reinterpret_cast<const std::byte*>(location.offset);
  }
  std::byte* own_staging() const override { return nullptr; }
  const std::byte* staging(int) const override { return nullptr; }

  SharedBuffer allocate(std::size_t bytes, const std::string& region, core::MemoryTracker& tracker,
                        Communicator& communicator) override;

  std::optional<int> find_dead_peer() override { return std::nullopt; }
  std::size_t internal_bytes() const override {
    return memory_->bytes() / static_cast<std::size_t>(memory_->ranks());
  }

 private:
  std::shared_ptr<LocalMemory> memory_;
  int rank_;
};

SharedBuffer LocalNode::allocate(std::size_t bytes, const std::string& region,
                                 core::MemoryTracker& tracker, Communicator& communicator) {
  core::Buffer buffer;
  std::string problem;
  try {
    buffer = core::Buffer(tracker, region, bytes);
  } catch (const core::Error& error) {
    problem = error.what();
  }
  const auto problems = communicator.all_gather_bytes(problem, "allocate " + region);
  for (std::size_t r = 0; r < problems.size(); ++r) {
    if (problems[r].empty()) continue;
    throw core::Error(core::ErrorKind::kOutOfMemory, fmt::format("rank {}: {}", r, problems[r]));
  }
  return SharedBuffer(std::make_unique<LocalStorage>(std::move(buffer)));
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

}  // namespace

std::unique_ptr<Communicator> make_local_communicator(std::string_view backend,
                                                      std::shared_ptr<LocalMemory> memory, int rank,
                                                      std::chrono::milliseconds timeout) {
  Group group;
  group.rank = rank;
  group.world_size = memory->ranks();
  for (int r = 0; r < group.world_size; ++r)
    group.node_rank.push_back(r);
  group.hosts.assign(static_cast<std::size_t>(group.world_size), host_name());
  group.crowded = group.world_size > core::usable_cores();
  return std::make_unique<ExchangeCommunicator>(
      backend, timeout, std::move(group), std::make_unique<LocalNode>(std::move(memory), rank),
      nullptr);
}

}  // namespace lockstep::comm
