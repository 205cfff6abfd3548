#include "runtime/health/gradient_census.h"

#include <algorithm>
#include <bit>
#include <mutex>

#include "ops/cpu/parallel.h"
#include "runtime/health/byte_string.h"

namespace lockstep::runtime {

namespace {

constexpr int kBias = 127;

// Of at most 2^31 elements. Two tables in turn, since neighbours often fall into one bin.
GradientCensus census_of(const float* x, std::int64_t n) {
  std::array<std::array<std::uint32_t, 2 * GradientCensus::kExponents>, 2> tables{};
  std::uint32_t zeros = 0;
  std::uint32_t greatest = 0;
  const auto count = [&](std::uint32_t bits, std::size_t table) {
    ++tables[table][bits >> 23];
    const std::uint32_t magnitude = bits & 0x7fffffffU;
    zeros += magnitude == 0 ? 1 : 0;
    greatest = std::max(greatest, magnitude < 0x7f800000U ? magnitude : 0U);
  };
  std::int64_t i = 0;
  for (; i + 1 < n; i += 2) {
    count(std::bit_cast<std::uint32_t>(x[i]), 0);
    count(std::bit_cast<std::uint32_t>(x[i + 1]), 1);
  }
  if (i < n) count(std::bit_cast<std::uint32_t>(x[i]), 0);
  GradientCensus census;
  for (std::size_t bin = 0; bin < census.counts.size(); ++bin)
    census.counts[bin] = std::int64_t{tables[0][bin]} + tables[1][bin];
  census.zeros = zeros;
  census.greatest = std::bit_cast<float>(greatest);
  return census;
}

}  // namespace

void GradientCensus::merge(const GradientCensus& other) {
  for (std::size_t bin = 0; bin < counts.size(); ++bin)
    counts[bin] += other.counts[bin];
  zeros += other.zeros;
  greatest = std::max(greatest, other.greatest);
}

// Of the bins those that hold something: a tensor's exponents span some forty.
std::string GradientCensus::packed() const {
  std::string bytes;
  append_bytes(bytes, zeros);
  append_bytes(bytes, greatest);
  const auto used = std::count_if(counts.begin(), counts.end(), [](auto n) { return n != 0; });
  append_bytes(bytes, static_cast<std::int32_t>(used));
  for (std::size_t bin = 0; bin < counts.size(); ++bin) {
    if (counts[bin] == 0) continue;
    append_bytes(bytes, static_cast<std::int32_t>(bin));
    append_bytes(bytes, counts[bin]);
  }
  return bytes;
}

GradientCensus GradientCensus::unpack(std::string_view& bytes) {
  GradientCensus census;
  census.zeros = take_bytes<std::int64_t>(bytes);
  census.greatest = take_bytes<float>(bytes);
  const auto used = take_bytes<std::int32_t>(bytes);
  for (std::int32_t i = 0; i < used; ++i) {
    const auto bin = static_cast<std::size_t>(take_bytes<std::int32_t>(bytes));
    LOCKSTEP_CHECK_LT(bin, census.counts.size(), "bin of a census");
    census.counts[bin] = take_bytes<std::int64_t>(bytes);
  }
  return census;
}

std::int64_t GradientCensus::elements() const {
  std::int64_t sum = 0;
  for (const std::int64_t count : counts)
    sum += count;
  return sum;
}

std::int64_t GradientCensus::below(int exponent) const {
  std::int64_t sum = -zeros;
  for (int field = 0; field < exponent + kBias; ++field)
    sum += at(field);
  return sum;
}

std::int64_t GradientCensus::from(int exponent) const {
  return elements() - zeros - below(exponent);
}

std::int64_t GradientCensus::subnormal(core::DType compute) const {
  constexpr int kLeastNormal = -126;  // of fp32 and bf16
  constexpr int kLeastNormalF16 = -14;
  return below(compute == core::DType::kF16 ? kLeastNormalF16 : kLeastNormal);
}

GradientHistogram GradientCensus::histogram() const {
  GradientHistogram histogram;
  histogram.elements = elements();
  histogram.zeros = zeros;
  int first = 1;
  int end = kExponents - 1;
  while (first < end && at(first) == 0)
    ++first;
  while (end > first && at(end - 1) == 0)
    --end;
  histogram.first_exponent = first < end ? first - kBias : 0;
  const auto bins = [&](int offset) {
    const auto begin = counts.begin() + offset;
    return std::vector<std::int64_t>(begin + first, begin + end);
  };
  histogram.positive = bins(0);
  histogram.negative = bins(kExponents);
  return histogram;
}

GradientCensus take_census(const ops::OpContext& context, const float* x, std::int64_t n) {
  constexpr std::int64_t kGrain = 1 << 16;
  GradientCensus total;
  std::mutex mutex;
  ops::cpu::parallel_chunks(context, n, kGrain,
                            [&](std::int64_t begin, std::int64_t end, std::int64_t) {
                              const GradientCensus part = census_of(x + begin, end - begin);
                              const std::lock_guard lock(mutex);
                              total.merge(part);
                            });
  return total;
}

}  // namespace lockstep::runtime
