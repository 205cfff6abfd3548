#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/dtype.h"
#include "ops/op_context.h"
#include "runtime/metrics/layer_lines.h"

namespace lockstep::runtime {

// The fp32 elements of a tensor by sign and exponent: exact counts, so that those of shards add up
// to those of the whole in any order.
struct GradientCensus {
  static constexpr int kExponents = 256;  // the exponent field: 0 zeros and subnormals, 255 inf and
                                          // NaN, else 2^(field - 127) and above
  std::array<std::int64_t, 2 * kExponents> counts{};  // positive ones, then negative ones
  std::int64_t zeros = 0;
  float greatest = 0.0F;  // finite magnitude

  void merge(const GradientCensus& other);
  std::string packed() const;
  // Takes what packed() wrote off the front of `bytes`.
  static GradientCensus unpack(std::string_view& bytes);

  std::int64_t elements() const;
  std::int64_t nonfinite() const { return at(kExponents - 1); }
  // Elements, zeros left out, of magnitude below 2^exponent; and those of at least that, with what is
  // not finite. -127 < exponent < 128
  std::int64_t below(int exponent) const;
  std::int64_t from(int exponent) const;
  // Elements, zeros left out, below the least normal number of the type.
  std::int64_t subnormal(core::DType compute) const;
  GradientHistogram histogram() const;

 private:
  std::int64_t at(int field) const {
    return counts[static_cast<std::size_t>(field)] +
           counts[static_cast<std::size_t>(kExponents + field)];
  }
};

// Counts x[0, n) on the context's threads, in memory of the host.
GradientCensus take_census(const ops::OpContext& context, const float* x, std::int64_t n);

}  // namespace lockstep::runtime
