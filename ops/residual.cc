#include "ops/residual.h"

#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::TensorView;

namespace {

void check_dropout(const char* op, const Dropout& dropout) {
  LOCKSTEP_CHECK(dropout.probability >= 0.0 && dropout.probability < 1.0,
                 "{}: dropout probability {} outside [0, 1)", op, dropout.probability);
  LOCKSTEP_CHECK(!dropout.active() || dropout.sequence_rows > 0, "{}: sequences of {} rows", op,
                 dropout.sequence_rows);
}

}  // namespace

void residual_forward(OpContext& context, ConstTensorView x, ConstTensorView branch,
                      ConstTensorView gate, const Dropout& dropout, TensorView y) {
  constexpr const char* kOp = "residual_forward";
  const OpBodies& bodies = bodies_for(context, kOp, {x, branch, gate, y});
  check_matrix(kOp, "x", x, x.dtype(), x.rows(), x.cols());
  check_matrix(kOp, "branch", branch, x.dtype(), x.rows(), x.cols());
  check_vector_or_empty(kOp, "gate", gate, x.dtype(), 1);
  check_matrix(kOp, "y", y, x.dtype(), x.rows(), x.cols());
  check_dropout(kOp, dropout);
  bodies.residual_forward(context, x, branch, gate, dropout, y);
}

void residual_backward(OpContext& context, ConstTensorView dy, ConstTensorView branch,
                       ConstTensorView gate, const Dropout& dropout, TensorView dbranch,
                       TensorView dgate) {
  constexpr const char* kOp = "residual_backward";
  const OpBodies& bodies = bodies_for(context, kOp, {dy, branch, gate, dbranch, dgate});
  check_matrix(kOp, "dy", dy, dy.dtype(), dy.rows(), dy.cols());
  check_matrix(kOp, "dbranch", dbranch, dy.dtype(), dy.rows(), dy.cols());
  if (!gate.empty()) {
    check_vector(kOp, "gate", gate, dy.dtype(), 1);
    check_vector(kOp, "dgate", dgate, dy.dtype(), 1);
    check_matrix(kOp, "branch", branch, dy.dtype(), dy.rows(), dy.cols());
  } else {
    LOCKSTEP_CHECK(dgate.empty() && branch.empty(), "{}: dgate and branch are given without a gate",
                   kOp);
  }
  check_dropout(kOp, dropout);
  bodies.residual_backward(context, dy, branch, gate, dropout, dbranch, dgate);
}

}  // namespace lockstep::ops
