#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace lockstep::runtime {

// How far a tensor's values reach.
struct Extent {
  double largest = 0.0;     // max |x| over the finite elements
  std::int64_t inf = 0;     // elements
  std::int64_t nan = 0;     // elements
  std::int64_t first = -1;  // the first element, in row-major order, that is inf or NaN

  bool finite() const { return inf + nan == 0; }
  // Adds the values of `other`, which come after; `first` stays the first one's.
  void merge(const Extent& other);
};

// values: any floating dtype but fp64, rows contiguous.
Extent extent_of(core::ConstTensorView values);

}  // namespace lockstep::runtime
