#include "ops/dropout.h"

#include "core/check.h"
#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

void dropout(OpContext& context, core::ConstTensorView x, const Dropout& dropout,
             core::TensorView y) {
  const OpBodies& bodies = bodies_for(context, "dropout", {x, y});
  check_matrix("dropout", "y", y, x.dtype(), x.rows(), x.cols());
  LOCKSTEP_CHECK(dropout.probability >= 0.0 && dropout.probability < 1.0,
                 "dropout: probability is {}", dropout.probability);
  LOCKSTEP_CHECK(
      !dropout.active() || (dropout.sequence_rows > 0 && x.rows() % dropout.sequence_rows == 0),
      "dropout: {} rows do not make whole sequences of {}", x.rows(), dropout.sequence_rows);
  bodies.dropout(context, x, dropout, y);
}

}  // namespace lockstep::ops
