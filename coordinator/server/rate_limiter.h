#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace lockstep::coordinator {

// Kinds of calls that do not use up each other's allowance: whoever floods the server with lists
// can still cancel.
enum class CallKind : std::uint8_t {
  kRead,         // get, list, wait, open a stream
  kMutation,     // create, update, retry, tokens, drain
  kInteractive,  // cancel, pause, resume, checkpoint
  kAgent,        // heartbeats
  kHeavy,        // checks of the store, backups, verifying checkpoints
};
inline constexpr std::size_t kCallKinds = 5;

struct Allowance {
  double per_second;
  double burst;
};

// A token bucket per caller and kind. Thread-safe.
class RateLimiter {
 public:
  using Allowances = std::array<Allowance, kCallKinds>;  // by CallKind

  // Generous for people and their scripts, far below what the server can bear.
  static Allowances defaults();

  explicit RateLimiter(const Allowances& allowances = defaults()) : allowances_(allowances) {}

  // Takes one call out of the caller's bucket. 0: go on; else nanoseconds to wait before trying
  // again. `now_ns`: a clock that never goes back.
  std::int64_t take(const std::string& caller, CallKind kind, std::int64_t now_ns);

 private:
  struct Bucket {
    double calls = 0;
    std::int64_t time_ns = 0;
  };

  void forget_full(std::int64_t now_ns);

  Allowances allowances_;
  std::mutex mutex_;
  std::map<std::pair<std::string, CallKind>, Bucket> buckets_;  // guarded by mutex_
};

}  // namespace lockstep::coordinator
