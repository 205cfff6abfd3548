#include <cmath>

#include "ops/cpu/bodies.h"

namespace lockstep::ops::cpu {

void first_nonfinite(OpContext& context, std::span<const core::ConstTensorView> views,
                     const double* loss, std::int64_t* first, std::int64_t number_of_first) {
  *first = -1;
  if (std::isfinite(*loss)) return;
  *first = number_of_first;
  for (const core::ConstTensorView& view : views) {
    if (cpu::count_nonfinite(context, view).total() > 0) return;
    ++*first;
  }
}

}  // namespace lockstep::ops::cpu
