#include "coordinator/server/rate_limiter.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace lockstep::coordinator {
namespace {

constexpr double kNanoseconds = 1e9;
constexpr std::size_t kMaxBuckets = 4096;

}  // namespace

RateLimiter::Allowances RateLimiter::defaults() {
  return {{{500, 1000}, {200, 2000}, {100, 500}, {20, 100}, {1, 10}}};
}

std::int64_t RateLimiter::take(const std::string& caller, CallKind kind, std::int64_t now_ns) {
  const Allowance& allowance = allowances_[static_cast<std::size_t>(kind)];
  const std::lock_guard lock(mutex_);
  if (buckets_.size() >= kMaxBuckets) forget_full(now_ns);
  const auto [entry, is_new] =
      buckets_.try_emplace({caller, kind}, Bucket{allowance.burst, now_ns});
  Bucket& bucket = entry->second;
  const double elapsed = static_cast<double>(std::max<std::int64_t>(0, now_ns - bucket.time_ns));
  bucket.calls =
      std::min(allowance.burst, bucket.calls + elapsed / kNanoseconds * allowance.per_second);
  bucket.time_ns = std::max(bucket.time_ns, now_ns);
  if (bucket.calls >= 1) {
    bucket.calls -= 1;
    return 0;
  }
  const double wait = (1 - bucket.calls) / allowance.per_second * kNanoseconds;
  return static_cast<std::int64_t>(std::ceil(wait));
}

// A bucket that is full by now is the same as none.
void RateLimiter::forget_full(std::int64_t now_ns) {
  std::erase_if(buckets_, [this, now_ns](const auto& entry) {
    const Allowance& allowance = allowances_[static_cast<std::size_t>(entry.first.second)];
    const double elapsed = static_cast<double>(now_ns - entry.second.time_ns);
    return entry.second.calls + elapsed / kNanoseconds * allowance.per_second >= allowance.burst;
  });
}

}  // namespace lockstep::coordinator
