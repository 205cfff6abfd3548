#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace lockstep::comm {

// What a training step communicates for: gradients are reduced (reduce_scatter, all_reduce), sums
// and parameters gathered (all_gather).
enum class CommKind : std::uint8_t { kReduce, kGather };
inline constexpr std::size_t kCommKinds = 2;
const char* name_of(CommKind kind);  // "reduce", "gather"

// Of the time that communication took: how much this rank stood still for it, and how much went by
// beside other work.
struct CommSeconds {
  double hidden = 0.0;
  double exposed = 0.0;

  double total() const { return hidden + exposed; }
};

// The communication of one rank, by kind; small exchanges and barriers left out (see
// Communicator::measure_times).
struct CommTimes {
  std::array<CommSeconds, kCommKinds> by_kind{};
  std::string why_unknown;  // not empty: there is nothing to tell, and why

  CommSeconds& operator[](CommKind kind) { return by_kind[static_cast<std::size_t>(kind)]; }
  const CommSeconds& operator[](CommKind kind) const {
    return by_kind[static_cast<std::size_t>(kind)];
  }
  CommSeconds all() const;
};

}  // namespace lockstep::comm
