#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace lockstep::models::ops {

// The sum of fp64 values without rounding: a fixed-point number in two's complement that is wide
// enough for every finite double (a long accumulator: Kulisch, "Computer Arithmetic and Validity",
// 2008). Since nothing is rounded before value(), neither the order of the additions nor how they
// are dealt out to accumulators changes the result; equal sums are equal bit for bit. Trivially
// copyable, so that it may be sent to another rank and merged there.
//
// Bit 0 of words[0] is worth 2^-1074, the least subnormal. 34 words hold 2^77 additions of any
// doubles. inf and NaN are kept as flags, which no later addition clears.
struct ExactSum {
  static constexpr std::size_t kWords = 34;
  static constexpr std::uint64_t kNaN = 1;
  static constexpr std::uint64_t kPositiveInfinity = 2;
  static constexpr std::uint64_t kNegativeInfinity = 4;

  std::array<std::uint64_t, kWords> words{};
  std::uint64_t flags = 0;

  void add(double value);
  void add_all(std::span<const double> values);
  void merge(const ExactSum& other);

  // The sum rounded once, to nearest even; +0 when it is zero; infinite when it is beyond fp64;
  // with flags NaN or an infinity, as an addition of the values in fp64 would give.
  double value() const;

  bool operator==(const ExactSum&) const = default;
};

}  // namespace lockstep::models::ops
