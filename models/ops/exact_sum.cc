#include "models/ops/exact_sum.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

namespace lockstep::models::ops {

static_assert(std::is_trivially_copyable_v<ExactSum> && sizeof(ExactSum) == 280);

namespace {

constexpr std::uint64_t kSignBit = std::uint64_t{1} << 63;
constexpr int kFractionBits = 52;
constexpr std::uint64_t kFractionMask = (std::uint64_t{1} << kFractionBits) - 1;
constexpr std::uint64_t kExponentMask = 0x7ff;
constexpr int kLeastExponent = -1074;  // of bit 0

using Signed128 = __int128;
using Unsigned128 = unsigned __int128;
using Words = std::array<std::uint64_t, ExactSum::kWords>;

std::uint64_t flag_of(double value) {
  if (std::isnan(value)) return ExactSum::kNaN;
  return value > 0 ? ExactSum::kPositiveInfinity : ExactSum::kNegativeInfinity;
}

// A finite value as a multiple of the weight of bit 0 of words[word].
struct Parts {
  bool finite;
  bool sign;
  std::size_t word;
  Unsigned128 scaled;  // below 2^116
};

Parts parts_of(double value) {
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

// words[at...] += amount, or -= where `subtract`
void add_at(Words& words, std::size_t at, Unsigned128 amount, bool subtract) {
  const auto low = static_cast<std::uint64_t>(amount);
  const auto high = static_cast<std::uint64_t>(amount >> 64);
  if (subtract) {
    bool borrow = __builtin_sub_overflow(words[at], low, &words[at]);
    const bool under = __builtin_sub_overflow(words[at + 1], high, &words[at + 1]);
    const bool under_borrow = __builtin_sub_overflow(words[at + 1], borrow, &words[at + 1]);
    borrow = under || under_borrow;
    for (std::size_t i = at + 2; borrow && i < words.size(); ++i)
      borrow = words[i]-- == 0;
  } else {
    bool carry = __builtin_add_overflow(words[at], low, &words[at]);
    const bool over = __builtin_add_overflow(words[at + 1], high, &words[at + 1]);
    const bool over_carry = __builtin_add_overflow(words[at + 1], carry, &words[at + 1]);
    carry = over || over_carry;
    for (std::size_t i = at + 2; carry && i < words.size(); ++i)
      carry = ++words[i] == 0;
  }
}

Unsigned128 magnitude_of(Signed128 value) {
  return static_cast<Unsigned128>(value < 0 ? -value : value);
}

Words negated(const Words& words) {
  Words result{};
  bool carry = true;
  for (std::size_t i = 0; i < words.size(); ++i) {
    result[i] = ~words[i] + (carry ? 1U : 0U);
    carry = carry && result[i] == 0;
  }
  return result;
}

// The 64 bits from bit `at` on.
std::uint64_t bits_from(const Words& words, int at) {
  const auto word = static_cast<std::size_t>(at / 64);
  const int shift = at % 64;
  const std::uint64_t low = words[word] >> shift;
  if (shift == 0 || word + 1 == words.size()) return low;
  return low | words[word + 1] << (64 - shift);
}

bool any_below(const Words& words, int at) {
  const auto word = static_cast<std::size_t>(at / 64);
  for (std::size_t i = 0; i < word; ++i)
    if (words[i] != 0) return true;
  return (words[word] & ((std::uint64_t{1} << (at % 64)) - 1)) != 0;
}

// A non-negative fixed-point number, rounded to nearest even.
double rounded(const Words& words) {
  std::size_t top = words.size();
  while (top > 0 && words[top - 1] == 0)
    --top;
  if (top == 0) return 0.0;
  const int width = static_cast<int>(top * 64) - std::countl_zero(words[top - 1]);
  const int dropped = width - (kFractionBits + 1);
  if (dropped <= 0) return std::ldexp(static_cast<double>(words[0]), kLeastExponent);
  std::uint64_t kept = bits_from(words, dropped) & (2 * kFractionMask + 1);
  const bool half = (bits_from(words, dropped - 1) & 1) != 0;
  if (half && ((kept & 1) != 0 || any_below(words, dropped - 1))) ++kept;
  return std::ldexp(static_cast<double>(kept), dropped + kLeastExponent);
}

}  // namespace

void ExactSum::add(double value) {
  const Parts parts = parts_of(value);
  if (!parts.finite) [[unlikely]] {
    flags |= flag_of(value);
    return;
  }
  add_at(words, parts.word, parts.scaled, parts.sign);
}

// One addition carries through memory from the word it reads to the word it writes, so that many to
// the same word wait for each other. Long runs therefore go to 128-bit partial sums, one per word,
// in kLanes sets that take turns: |parts.scaled| < 2^116, which leaves room for kRun of them.
void ExactSum::add_all(std::span<const double> values) {
  constexpr std::size_t kLanes = 4;
  constexpr std::size_t kRun = 1024;
  constexpr std::size_t kLeastRun = 256;  // shorter ones are not worth clearing the partial sums
  using Partials = std::array<std::array<Signed128, kWords>, kLanes>;
  while (values.size() >= kLeastRun) {
    const std::span<const double> run = values.first(std::min(values.size(), kRun * kLanes));
    values = values.subspan(run.size());
    Partials partials{};
    for (std::size_t i = 0; i < run.size(); ++i) {
      const Parts parts = parts_of(run[i]);
      if (!parts.finite) [[unlikely]] {
        flags |= flag_of(run[i]);
        continue;
      }
      Signed128& sum = partials[i % kLanes][parts.word];
      sum +=
          parts.sign ? -static_cast<Signed128>(parts.scaled) : static_cast<Signed128>(parts.scaled);
    }
    for (const auto& lane : partials)
      for (std::size_t word = 0; word + 1 < kWords; ++word)
        if (lane[word] != 0) add_at(words, word, magnitude_of(lane[word]), lane[word] < 0);
  }
  for (const double value : values)
    add(value);
}

void ExactSum::merge(const ExactSum& other) {
  bool carry = false;
  for (std::size_t i = 0; i < kWords; ++i) {
    const bool over = __builtin_add_overflow(words[i], other.words[i], &words[i]);
    const bool over_carry = __builtin_add_overflow(words[i], carry, &words[i]);
    carry = over || over_carry;
  }
  flags |= other.flags;
}

double ExactSum::value() const {
  const bool positive = (flags & kPositiveInfinity) != 0;
  const bool negative = (flags & kNegativeInfinity) != 0;
  if ((flags & kNaN) != 0 || (positive && negative))
    return std::numeric_limits<double>::quiet_NaN();
  if (positive) return std::numeric_limits<double>::infinity();
  if (negative) return -std::numeric_limits<double>::infinity();
  return (words.back() & kSignBit) == 0 ? rounded(words) : -rounded(negated(words));
}

}  // namespace lockstep::models::ops
