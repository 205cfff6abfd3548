#include "tests/comm/nccl_meeting.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/dtype.h"

namespace lockstep::comm::testing {

std::size_t size_of(nccl::DataType type) {
  switch (type) {
    case nccl::kUint8:
      return 1;
    case nccl::kFloat16:
    case nccl::kBfloat16:
      return 2;
    case nccl::kInt32:
    case nccl::kUint32:
    case nccl::kFloat32:
      return 4;
    case nccl::kInt64:
    case nccl::kFloat64:
      return 8;
  }
  return 1;
}

namespace {

template <typename T>
T combine(T a, T b, nccl::RedOp op) {
  if constexpr (std::is_integral_v<T>) {
    if (op == nccl::kMax) return std::max(a, b);
    if (op == nccl::kMin) return std::min(a, b);
    return static_cast<T>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  } else {
    using W = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const W x = static_cast<W>(a);
    const W y = static_cast<W>(b);
    if (op == nccl::kMax) return x < y ? b : a;
    if (op == nccl::kMin) return y < x ? b : a;
    return static_cast<T>(x + y);  // a hop of the ring rounds to the wire type
  }
}

// Elements [begin, begin + count) of the ranks' inputs, from the rank behind `owner` round to it.
template <typename T>
void reduce_ring(const Meeting& meeting, std::size_t begin, std::size_t count, int owner, T* out) {
  const int ranks = static_cast<int>(meeting.parts.size());
  for (std::size_t i = 0; i < count; ++i) {
    T sum{};
    for (int hop = 0; hop < ranks; ++hop) {
      const Part& part = *meeting.parts[static_cast<std::size_t>((owner + 1 + hop) % ranks)];
      T value{};
      std::memcpy(&value, part.send + (begin + i) * sizeof(T), sizeof(T));
      sum = hop == 0 ? value : combine(sum, value, part.op);
    }
    out[i] = sum;
  }
}

template <typename F>
void visit(nccl::DataType type, F&& f) {
  switch (type) {
    case nccl::kUint8:
      return f(std::uint8_t{});
    case nccl::kInt32:
      return f(std::int32_t{});
    case nccl::kUint32:
      return f(std::uint32_t{});
    case nccl::kInt64:
      return f(std::int64_t{});
    case nccl::kFloat16:
      return f(core::Float16{});
    case nccl::kFloat32:
      return f(float{});
    case nccl::kFloat64:
      return f(double{});
    case nccl::kBfloat16:
      return f(core::BFloat16{});
  }
}

// The output of `rank`, all inputs being there.
std::vector<std::byte> output_of(const Meeting& meeting, int rank) {
  const Part& mine = *meeting.parts[static_cast<std::size_t>(rank)];
  const std::size_t ranks = meeting.parts.size();
  const std::size_t bytes = mine.count * size_of(mine.type);
  std::vector<std::byte> out(mine.kind == Kind::kAllGather ? bytes * ranks : bytes);
  visit(mine.type, [&](auto tag) {
    using T = decltype(tag);
    T* to = reinterpret_cast<T*>(out.data());
    if (mine.kind == Kind::kReduceScatter) {
      reduce_ring(meeting, mine.count * static_cast<std::size_t>(rank), mine.count, rank, to);
    } else if (mine.kind == Kind::kAllReduce) {
      const std::size_t slice = (mine.count + ranks - 1) / ranks;
      for (std::size_t r = 0; r < ranks; ++r) {
        const std::size_t begin = std::min(mine.count, r * slice);
        const std::size_t end = std::min(mine.count, begin + slice);
        reduce_ring(meeting, begin, end - begin, static_cast<int>(r), to + begin);
      }
    }
  });
  if (mine.kind == Kind::kAllGather) {
    for (std::size_t r = 0; r < ranks; ++r)
      std::memcpy(out.data() + r * bytes, meeting.parts[r]->send, bytes);
  } else if (mine.kind == Kind::kBroadcast) {
    std::memcpy(out.data(), meeting.parts[static_cast<std::size_t>(mine.root)]->send, bytes);
  }
  return out;
}

}  // namespace

bool fit(const Meeting& meeting) {
  const Part& first = *meeting.parts.front();
  return std::all_of(meeting.parts.begin(), meeting.parts.end(), [&](const auto& part) {
    return part->kind == first.kind && part->count == first.count && part->type == first.type &&
           part->op == first.op && part->root == first.root;
  });
}

void check_places(const Meeting& meeting) {
  const Part& first = *meeting.parts.front();
  for (const auto& part : meeting.parts) {
    if (part->places != first.places) {
      note_misuse("ranks' buffers of one collective are not registered alike");
      return;
    }
  }
  const bool sums = first.kind == Kind::kAllReduce || first.kind == Kind::kReduceScatter;
  for (const Place& place : first.places)
    if (sums && place.kept == Kept::kWindow) note_misuse("sums were taken in a symmetric window");
}

// The last one to come does it for all, outputs after all inputs are read: they may be the same.
void perform(Meeting& meeting) {
  const std::size_t ranks = meeting.parts.size();
  if (meeting.parts.front()->kind == Kind::kExchange) {
    const Part& any = *meeting.parts.front();
    for (std::size_t to = 0; to < ranks; ++to) {
      for (const auto& [from, memory] : meeting.parts[to]->receives) {
        const auto& sends = meeting.parts[static_cast<std::size_t>(from)]->sends;
        std::memcpy(memory, sends.at(static_cast<int>(to)), any.count * size_of(any.type));
      }
    }
    return;
  }
  std::vector<std::vector<std::byte>> outputs;
  for (std::size_t r = 0; r < ranks; ++r)
    outputs.push_back(output_of(meeting, static_cast<int>(r)));
  for (std::size_t r = 0; r < ranks; ++r)
    std::memcpy(meeting.parts[r]->receive, outputs[r].data(), outputs[r].size());
}

}  // namespace lockstep::comm::testing
