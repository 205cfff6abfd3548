#include "ops/first_nonfinite.h"

#include "core/check.h"
#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

void first_nonfinite(OpContext& context, std::span<const core::ConstTensorView> views,
                     const double* loss, std::int64_t* first, std::int64_t number_of_first) {
  constexpr const char* kOp = "first_nonfinite";
  LOCKSTEP_CHECK(!views.empty(), "{}: no views", kOp);
  const core::ConstTensorView& like = views.front();
  for (const core::ConstTensorView& view : views) {
    bodies_for(context, kOp, {view});
    check_matrix(kOp, "view", view, like.dtype(), like.rows(), like.cols());
    LOCKSTEP_CHECK(view.contiguous(), "{}: a view with gaps between its rows", kOp);
  }
  context.bodies().first_nonfinite(context, views, loss, first, number_of_first);
}

}  // namespace lockstep::ops
