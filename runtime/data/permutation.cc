#include "runtime/data/permutation.h"

#include "core/check.h"

namespace lockstep::runtime {

namespace {
constexpr std::uint64_t kRounds = 8;
constexpr std::uint64_t kLargestSize = 1ULL << 62;
}  // namespace

Permutation::Permutation(std::uint64_t seed, std::uint64_t epoch, std::uint64_t size)
    : key_(core::stream_key(seed, "data/order", epoch)), size_(size) {
  LOCKSTEP_CHECK(size >= 1 && size <= kLargestSize, "permutation of {} elements", size);
  while ((1ULL << (2 * half_bits_)) < size_)
    ++half_bits_;
}

std::uint64_t Permutation::operator()(std::uint64_t index) const {
  LOCKSTEP_CHECK_LT(index, size_, "index of a permutation");
  std::uint64_t x = encrypt(index);
  while (x >= size_)
    x = encrypt(x);
  return x;
}

std::uint64_t Permutation::encrypt(std::uint64_t x) const {
  const std::uint64_t mask = (1ULL << half_bits_) - 1;
  std::uint64_t left = x >> half_bits_;
  std::uint64_t right = x & mask;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    const std::uint64_t f = core::stream_block(key_, right, round)[0];
    const std::uint64_t mixed = left ^ (f & mask);
    left = right;
    right = mixed;
  }
  return (left << half_bits_) | right;
}

}  // namespace lockstep::runtime
