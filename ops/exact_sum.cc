#include "ops/exact_sum.h"

#include <algorithm>
#include <type_traits>

namespace lockstep::ops {

static_assert(std::is_trivially_copyable_v<ExactSum> && sizeof(ExactSum) == 280);

namespace {

using Signed128 = __int128;

unsigned __int128 magnitude_of(Signed128 value) {
  return static_cast<unsigned __int128>(value < 0 ? -value : value);
}

}  // namespace

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
        if (lane[word] != 0) add_at(word, magnitude_of(lane[word]), lane[word] < 0);
  }
  for (const double value : values)
    add(value);
}

}  // namespace lockstep::ops
