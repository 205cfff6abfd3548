#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// Where the first of a row of tensors holds inf or NaN: *first = number_of_first + its index, or
// number_of_first + views.size() when all are finite. Asked only when *loss is not finite; else
// *first = -1 and no view is read. views: [rows, cols], the same for each, of one floating dtype,
// rows one after another. loss and first lie where the views lie (see Results); first is there when
// the work of the context is done.
void first_nonfinite(OpContext& context, std::span<const core::ConstTensorView> views,
                     const double* loss, std::int64_t* first, std::int64_t number_of_first = 0);

}  // namespace lockstep::ops
