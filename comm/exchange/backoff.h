#pragma once

#include <cstdint>

namespace lockstep::comm {

// How a rank waits for memory that a peer will write: it spins shortly (a peer on another core
// answers within a microsecond), then gives its core away (there may be more ranks than cores),
// then sleeps for growing, short times.
class Backoff {
 public:
  // crowded: more ranks on the node than cores, where spinning only delays the peer.
  explicit Backoff(bool crowded) : crowded_(crowded) {}

  void pause();
  void reset() { round_ = 0; }
  // True about once every few hundred microseconds of waiting: time to look at clocks and at the
  // health of the peers, which cost system calls.
  bool time_to_check() const { return round_ > kYields && round_ % 8 == 0; }

 private:
  static constexpr std::uint32_t kSpins = 2000;
  static constexpr std::uint32_t kYields = kSpins + 200;

  bool crowded_;
  std::uint32_t round_ = 0;
};

}  // namespace lockstep::comm
