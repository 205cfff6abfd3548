#include "ops/gradient_stats.h"

#include "core/check.h"
#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

namespace {

void check_ranges(const char* op, const core::ConstTensorView& x, std::span<const Range> ranges) {
  check_vector(op, "x", x, x.dtype(), x.elements());
  for (const Range& range : ranges) {
    LOCKSTEP_CHECK(
        range.begin >= 0 && range.count >= 0 && range.begin + range.count <= x.elements(),
        "{}: elements {} to {} of a vector of {}", op, range.begin, range.begin + range.count,
        x.elements());
  }
}

}  // namespace

NonFinite count_nonfinite(OpContext& context, core::ConstTensorView x) {
  const OpBodies& bodies = bodies_for(context, "count_nonfinite", {x});
  return bodies.count_nonfinite(context, x);
}

void count_nonfinite_ranges(OpContext& context, core::ConstTensorView x,
                            std::span<const Range> ranges, NonFinite* counts) {
  constexpr const char* kOp = "count_nonfinite_ranges";
  const OpBodies& bodies = bodies_for(context, kOp, {x});
  check_ranges(kOp, x, ranges);
  bodies.count_nonfinite_ranges(context, x, ranges, counts);
}

void sums_of_squares(OpContext& context, core::ConstTensorView x, std::span<const Range> ranges,
                     SumOfSquares* sums) {
  constexpr const char* kOp = "sums_of_squares";
  const OpBodies& bodies = bodies_for(context, kOp, {x});
  check_ranges(kOp, x, ranges);
  bodies.sums_of_squares(context, x, ranges, sums);
}

}  // namespace lockstep::ops
