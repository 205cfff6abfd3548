#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "comm/nccl/nccl_api.h"
#include "tests/comm/nccl_registered.h"

// The arithmetic of the stand-in for NCCL: where the ranks of a group meet for one collective.
namespace lockstep::comm::testing {

enum class Kind { kAllReduce, kReduceScatter, kAllGather, kBroadcast, kExchange };

// What one rank brings to a collective.
struct Part {
  Kind kind = Kind::kAllReduce;
  const std::byte* send = nullptr;
  std::byte* receive = nullptr;
  std::size_t count = 0;
  nccl::DataType type = nccl::kUint8;
  nccl::RedOp op = nccl::kSum;
  int root = 0;
  std::map<int, const std::byte*> sends{};  // of kExchange, by peer
  std::map<int, std::byte*> receives{};
  // Where all of its memory lies; a rank's own part in place counts as the whole.
  std::vector<Place> places{};
};

// One collective of a group of ranks.
struct Meeting {
  std::vector<std::optional<Part>> parts;
  bool over = false;
  bool broken = false;  // a rank gave up, or the parts do not fit: it never ends
};

struct Group {
  std::mutex mutex;
  std::condition_variable changed;
  int ranks = 0;
  int joined = 0;
  std::map<std::uint64_t, Meeting> meetings;  // by number
  std::map<std::uint64_t, std::vector<std::size_t>>
      windows;  // by number: sizes of the ranks' parts
};

std::size_t size_of(nccl::DataType type);

// Whether all ranks came with the same; real ranks that do not hang, or worse.
bool fit(const Meeting& meeting);

// Writes down what is undefined about the ranks' memory, which must be registered alike.
void check_places(const Meeting& meeting);

// Does the collective of all ranks, whose parts are all there and fit.
void perform(Meeting& meeting);

}  // namespace lockstep::comm::testing
