#include "ops/attention.h"

#include <cmath>

#include "core/check.h"
#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::TensorView;

namespace {

void check_spec(const char* op, const AttentionSpec& spec) {
  LOCKSTEP_CHECK(spec.sequences >= 0 && spec.length > 0 && spec.head_width > 0,
                 "{}: {} sequences of {} positions, heads {} wide", op, spec.sequences, spec.length,
                 spec.head_width);
  LOCKSTEP_CHECK(spec.kv_heads > 0 && spec.heads > 0 && spec.heads % spec.kv_heads == 0,
                 "{}: {} query heads must be a multiple of {} key/value heads", op, spec.heads,
                 spec.kv_heads);
  LOCKSTEP_CHECK(spec.window == 0 || (spec.window > 0 && spec.causal),
                 "{}: a window of {} positions under a {} mask", op, spec.window,
                 spec.causal ? "causal" : "full");
  LOCKSTEP_CHECK(std::isfinite(spec.scale) && spec.scale > 0.0, "{}: scale is {}", op, spec.scale);
  LOCKSTEP_CHECK(spec.dropout.probability >= 0.0 && spec.dropout.probability < 1.0,
                 "{}: dropout probability is {}", op, spec.dropout.probability);
}

// What lies beside one another in a row: all query heads, or all key/value heads.
void check_heads(const char* op, const char* name, ConstTensorView view, core::DType dtype,
                 const AttentionSpec& spec, std::int64_t heads) {
  check_matrix(op, name, view, dtype, spec.sequences * spec.length, heads * spec.head_width);
}

}  // namespace

void attention_forward(OpContext& context, const AttentionSpec& spec, ConstTensorView q,
                       ConstTensorView k, ConstTensorView v, TensorView out, TensorView lse) {
  constexpr const char* kOp = "attention_forward";
  const core::DType dtype = q.dtype();
  check_spec(kOp, spec);
  const OpBodies& bodies = bodies_for(context, kOp, {q, k, v, out, lse});
  check_heads(kOp, "q", q, dtype, spec, spec.heads);
  check_heads(kOp, "k", k, dtype, spec, spec.kv_heads);
  check_heads(kOp, "v", v, dtype, spec, spec.kv_heads);
  check_heads(kOp, "out", out, dtype, spec, spec.heads);
  check_matrix(kOp, "lse", lse, core::accumulate_dtype(dtype), spec.sequences * spec.heads,
               spec.length);
  bodies.attention_forward(context, spec, q, k, v, out, lse);
}

void attention_backward(OpContext& context, const AttentionSpec& spec, ConstTensorView dout,
                        ConstTensorView q, ConstTensorView k, ConstTensorView v,
                        ConstTensorView out, ConstTensorView lse, TensorView dq, TensorView dk,
                        TensorView dv) {
  constexpr const char* kOp = "attention_backward";
  const core::DType dtype = q.dtype();
  check_spec(kOp, spec);
  const OpBodies& bodies = bodies_for(context, kOp, {dout, q, k, v, out, lse, dq, dk, dv});
  check_heads(kOp, "dout", dout, dtype, spec, spec.heads);
  check_heads(kOp, "q", q, dtype, spec, spec.heads);
  check_heads(kOp, "k", k, dtype, spec, spec.kv_heads);
  check_heads(kOp, "v", v, dtype, spec, spec.kv_heads);
  check_heads(kOp, "out", out, dtype, spec, spec.heads);
  check_matrix(kOp, "lse", lse, core::accumulate_dtype(dtype), spec.sequences * spec.heads,
               spec.length);
  check_heads(kOp, "dq", dq, dtype, spec, spec.heads);
  check_heads(kOp, "dk", dk, dtype, spec, spec.kv_heads);
  check_heads(kOp, "dv", dv, dtype, spec, spec.kv_heads);
  bodies.attention_backward(context, spec, dout, q, k, v, out, lse, dq, dk, dv);
}

}  // namespace lockstep::ops
