#include "runtime/replay/extent.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace lockstep::runtime {

namespace {

template <typename T>
Extent extent_of_elements(const T* values, std::int64_t count) {
  Extent extent;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto magnitude = std::fabs(static_cast<double>(static_cast<float>(values[i])));
    if (std::isfinite(magnitude)) {
      extent.largest = std::max(extent.largest, magnitude);
      continue;
    }
    (std::isnan(magnitude) ? extent.nan : extent.inf) += 1;
    if (extent.first < 0) extent.first = i;
  }
  return extent;
}

}  // namespace

void Extent::merge(const Extent& other) {
  if (first < 0) first = other.first;
  largest = std::max(largest, other.largest);
  inf += other.inf;
  nan += other.nan;
}

Extent extent_of(core::ConstTensorView values) {
  LOCKSTEP_CHECK(values.contiguous(), "rows {} elements apart, {} long", values.row_stride(),
                 values.cols());
  return core::visit_floating(values.dtype(), [&](auto tag) {
    using T = decltype(tag);
    return extent_of_elements(values.data<T>(), values.elements());
  });
}

}  // namespace lockstep::runtime
