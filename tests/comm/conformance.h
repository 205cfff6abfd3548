#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace lockstep::comm::testing {

// Where a rank's views lie: on the CPU, or on the communicator's device, whose work then goes to
// `stream`.
struct Site {
  Communicator& comm;
  core::DeviceRef device{};
  const core::DeviceStream* stream = nullptr;
  // Whether sums of floating types have the bits of rank order, or only come close; then the ranks
  // still agree with each other.
  bool exact = true;
  // Whether the ranks' views of one call must all lie in shared buffers or none.
  bool alike = false;
  std::uint64_t entered = 0;  // collectives before the first of a case

  bool on_device() const { return !device.on_cpu(); }
};

// Collectives by which a group over NCCL connects.
inline constexpr std::uint64_t kNcclEntered = 6;

// One property that every backend must have, at every world size, on the CPU and on devices. Every
// rank of a fresh group calls `check`, which compares with a plain reference bit by bit and reports
// through gtest.
struct ConformanceCase {
  std::string name;
  std::function<void(const Site&)> check;
};

inline void PrintTo(const ConformanceCase& c, std::ostream* out) {  // gtest's name for it
  *out << c.name;
}

const std::vector<ConformanceCase>& conformance_cases();
const std::vector<ConformanceCase>& usage_cases();  // those of them in conformance_usage.cc

// Ways of misusing a group of at least two ranks. Every rank calls `check` on a fresh group whose
// timeout is short; each expects Error(kCommunication) that names the culprit.
const std::vector<ConformanceCase>& misuse_cases();

}  // namespace lockstep::comm::testing
