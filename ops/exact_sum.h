#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace lockstep::ops {

// The sum of fp64 values without rounding: a fixed-point number in two's complement that is wide
// enough for every finite double (a long accumulator: Kulisch, "Computer Arithmetic and Validity",
// 2008). Since nothing is rounded before value(), neither the order of the additions nor how they
// are dealt out to accumulators changes the result; equal sums are equal bit for bit. Trivially
// copyable, so that it may be sent to another rank and merged there.
//
// Bit 0 of words[0] is worth 2^-1074, the least subnormal. 34 words hold 2^77 additions of any
// doubles. inf and NaN are kept as flags, which no later addition clears.
//
// What is constexpr uses integers and the bits of doubles alone, so that kernels may call it too
// and get the same bits.
struct ExactSum {
  static constexpr std::size_t kWords = 34;
  static constexpr std::uint64_t kNaN = 1;
  static constexpr std::uint64_t kPositiveInfinity = 2;
  static constexpr std::uint64_t kNegativeInfinity = 4;

  std::array<std::uint64_t, kWords> words{};
  std::uint64_t flags = 0;

  constexpr void add(double value);
  void add_all(std::span<const double> values);
  constexpr void merge(const ExactSum& other);

  // The sum rounded once, to nearest even; +0 when it is zero; infinite when it is beyond fp64;
  // with flags NaN or an infinity, as an addition of the values in fp64 would give.
  constexpr double value() const;

  bool operator==(const ExactSum&) const = default;

 private:
  using Words = std::array<std::uint64_t, kWords>;
  using Unsigned128 = unsigned __int128;

  static constexpr int kFractionBits = 52;
  static constexpr std::uint64_t kFractionMask = (std::uint64_t{1} << kFractionBits) - 1;
  static constexpr std::uint64_t kExponentMask = 0x7ff;
  static constexpr std::uint64_t kSignBit = std::uint64_t{1} << 63;
  static constexpr std::uint64_t kInfinityBits = kExponentMask << kFractionBits;
  static constexpr std::uint64_t kNaNBits = kInfinityBits | std::uint64_t{1} << 51;

  // A finite value as a multiple of the weight of bit 0 of words[word].
  struct Parts {
    bool finite;
    bool sign;
    std::size_t word;
    Unsigned128 scaled;  // below 2^116
  };

  static constexpr Parts parts_of(double value);
  static constexpr std::uint64_t flag_of(double value);  // of inf and NaN
  constexpr void add_at(std::size_t at, Unsigned128 amount, bool subtract);
  static constexpr Words negated(const Words& words);
  static constexpr int width_of(std::uint64_t word);  // bits up to the topmost 1; not of 0
  static constexpr std::uint64_t bits_from(const Words& words, int at);
  static constexpr bool any_below(const Words& words, int at);
  static constexpr std::uint64_t rounded(const Words& words);
};

constexpr ExactSum::Parts ExactSum::parts_of(double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const std::uint64_t exponent = bits >> kFractionBits & kExponentMask;
  // A normal number has an implied bit above the fraction; a subnormal has none and lies where
  // exponent 1 does.
  const std::uint64_t normal = exponent != 0 ? 1 : 0;
  const std::uint64_t significand = (bits & kFractionMask) | normal << kFractionBits;
  const std::uint64_t position = exponent - normal;
  return {exponent != kExponentMask, (bits & kSignBit) != 0, position / 64,
          static_cast<Unsigned128>(significand) << (position % 64)};
}

constexpr std::uint64_t ExactSum::flag_of(double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  if ((bits & kFractionMask) != 0) return kNaN;
  return (bits & kSignBit) == 0 ? kPositiveInfinity : kNegativeInfinity;
}

// words[at...] += amount, or -= where `subtract`. A sum below one of its terms has carried.
constexpr void ExactSum::add_at(std::size_t at, Unsigned128 amount, bool subtract) {
  const Unsigned128 before = static_cast<Unsigned128>(words[at + 1]) << 64 | words[at];
  const Unsigned128 after = subtract ? before - amount : before + amount;
  words[at] = static_cast<std::uint64_t>(after);
  words[at + 1] = static_cast<std::uint64_t>(after >> 64);
  if (subtract) {
    bool borrow = before < amount;
    for (std::size_t i = at + 2; borrow && i < kWords; ++i)
      borrow = words[i]-- == 0;
  } else {
    bool carry = after < amount;
    for (std::size_t i = at + 2; carry && i < kWords; ++i)
      carry = ++words[i] == 0;
  }
}

constexpr void ExactSum::add(double value) {
  const Parts parts = parts_of(value);
  if (!parts.finite) [[unlikely]] {
    flags |= flag_of(value);
    return;
  }
  add_at(parts.word, parts.scaled, parts.sign);
}

constexpr void ExactSum::merge(const ExactSum& other) {
  std::uint64_t carry = 0;
  for (std::size_t i = 0; i < kWords; ++i) {
    const std::uint64_t sum = words[i] + other.words[i];
    const std::uint64_t over = sum < other.words[i] ? 1 : 0;
    words[i] = sum + carry;
    carry = over | (words[i] < carry ? 1U : 0U);
  }
  flags |= other.flags;
}

constexpr ExactSum::Words ExactSum::negated(const Words& words) {
  Words result{};
  bool carry = true;
  for (std::size_t i = 0; i < kWords; ++i) {
    result[i] = ~words[i] + (carry ? 1U : 0U);
    carry = carry && result[i] == 0;
  }
  return result;
}

constexpr int ExactSum::width_of(std::uint64_t word) {
  int width = 1;
  for (int step = 32; step > 0; step /= 2) {
    if (word >> step == 0) continue;
    word >>= step;
    width += step;
  }
  return width;
}

// The 64 bits from bit `at` on.
constexpr std::uint64_t ExactSum::bits_from(const Words& words, int at) {
  const auto word = static_cast<std::size_t>(at / 64);
  const int shift = at % 64;
  const std::uint64_t low = words[word] >> shift;
  if (shift == 0 || word + 1 == kWords) return low;
  return low | words[word + 1] << (64 - shift);
}

constexpr bool ExactSum::any_below(const Words& words, int at) {
  const auto word = static_cast<std::size_t>(at / 64);
  for (std::size_t i = 0; i < word; ++i)
    if (words[i] != 0) return true;
  return (words[word] & ((std::uint64_t{1} << (at % 64)) - 1)) != 0;
}

// The bits of a non-negative fixed-point number, rounded to nearest even. Up to 53 bits they are
// the number itself: bit 0 is that of a subnormal, and bit 52 makes the exponent 1. Beyond, `kept`
// has its bit 52 and rounds up to 2^53 at most, which carries into the exponent.
constexpr std::uint64_t ExactSum::rounded(const Words& words) {
  std::size_t top = kWords;
  while (top > 0 && words[top - 1] == 0)
    --top;
  if (top == 0) return 0;
  const int width = static_cast<int>(top - 1) * 64 + width_of(words[top - 1]);
  const int dropped = width - (kFractionBits + 1);
  if (dropped <= 0) return words[0];
  std::uint64_t kept = bits_from(words, dropped) & (2 * kFractionMask + 1);
  const bool half = (bits_from(words, dropped - 1) & 1) != 0;
  if (half && ((kept & 1) != 0 || any_below(words, dropped - 1))) ++kept;
  const std::uint64_t bits =
      (static_cast<std::uint64_t>(dropped + 1) << kFractionBits) + (kept - (kFractionMask + 1));
  return bits < kInfinityBits ? bits : kInfinityBits;
}

constexpr double ExactSum::value() const {
  const bool positive = (flags & kPositiveInfinity) != 0;
  const bool negative = (flags & kNegativeInfinity) != 0;
  std::uint64_t bits = 0;
  if ((flags & kNaN) != 0 || (positive && negative)) {
    bits = kNaNBits;
  } else if (positive || negative) {
    bits = kInfinityBits | (negative ? kSignBit : 0);
  } else if ((words[kWords - 1] & kSignBit) == 0) {
    bits = rounded(words);
  } else {
    bits = rounded(negated(words)) | kSignBit;
  }
  return std::bit_cast<double>(bits);
}

}  // namespace lockstep::ops
