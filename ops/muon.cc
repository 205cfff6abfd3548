#include "ops/muon.h"

#include <algorithm>

#include "core/check.h"
#include "ops/matmul.h"
#include "ops/op_bodies.h"
#include "ops/op_checks.h"
#include "ops/transfer.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

namespace {

TensorView matrix_of(const TensorView& room, std::int64_t rows, std::int64_t cols) {
  LOCKSTEP_CHECK_LE(rows * cols, room.elements(), "room of Newton-Schulz");
  return {room.raw(), room.dtype(), core::Shape{rows, cols}, room.device()};
}

TensorView flat(const TensorView& view) {
  return {view.raw(), view.dtype(), core::Shape{view.elements()}, view.device()};
}

}  // namespace

void muon_momentum(OpContext& context, const MuonMomentum& rule, const std::int32_t* apply,
                   UpdateFactor factor, float clamp, ConstTensorView gradient, TensorView moment,
                   TensorView direction) {
  constexpr const char* kOp = "muon_momentum";
  const OpBodies& bodies = bodies_for(context, kOp, {gradient, moment, direction});
  const std::int64_t n = gradient.elements();
  check_vector(kOp, "gradient", gradient, DType::kF32, n);
  check_vector(kOp, "moment", moment, DType::kF32, n);
  check_vector_or_empty(kOp, "direction", direction, DType::kF32, n);
  const bool on_cpu = context.device().type == core::DeviceType::kCpu;
  LOCKSTEP_CHECK(!on_cpu || (apply == nullptr && factor.on_device == nullptr),
                 "{}: a choice in device memory for an update on the CPU", kOp);
  bodies.muon_momentum(context, rule, apply, factor, clamp, gradient, moment, direction);
}

void divide_by_norm(OpContext& context, ConstTensorView u, const SumOfSquares* squares, float eps,
                    TensorView out) {
  constexpr const char* kOp = "divide_by_norm";
  const OpBodies& bodies = bodies_for(context, kOp, {u, out});
  check_vector(kOp, "u", u, DType::kF32, out.elements());
  check_vector(kOp, "out", out, out.dtype(), u.elements());
  bodies.divide_by_norm(context, u, squares, eps, out);
}

void weighted_sum(OpContext& context, float a, ConstTensorView x, float b, ConstTensorView y,
                  TensorView out) {
  constexpr const char* kOp = "weighted_sum";
  const OpBodies& bodies = bodies_for(context, kOp, {x, y, out});
  check_vector(kOp, "x", x, out.dtype(), out.elements());
  check_vector(kOp, "y", y, DType::kF32, out.elements());
  check_vector(kOp, "out", out, out.dtype(), x.elements());
  bodies.weighted_sum(context, a, x, b, y, out);
}

void newton_schulz(OpContext& context, TensorView matrix, std::int64_t steps, DType dtype,
                   const NewtonSchulzRoom& room) {
  const std::int64_t rows = matrix.rows();
  const std::int64_t cols = matrix.cols();
  const std::int64_t side = std::min(rows, cols);
  const bool tall = rows > cols;
  LOCKSTEP_CHECK(
      room.iterate.dtype() == dtype && room.gram.dtype() == dtype && room.quintic.dtype() == dtype,
      "newton_schulz: room of {}, expected {}", core::name_of(room.iterate.dtype()),
      core::name_of(dtype));
  const TensorView x = matrix_of(room.iterate, rows, cols);
  const TensorView gram = matrix_of(room.gram, side, side);
  const TensorView quintic = matrix_of(room.quintic, side, side);
  const TensorView squared = matrix_of(room.product, side, side);
  const TensorView product = matrix_of(room.product, rows, cols);
  const Range all{0, matrix.elements()};
  sums_of_squares(context, flat(matrix), {&all, 1}, room.squares);
  divide_by_norm(context, flat(matrix), room.squares, kNewtonSchulzEps, flat(x));
  const auto [a, b, c] = kNewtonSchulz;
  for (std::int64_t k = 0; k < steps; ++k) {
    matmul(context, x, tall ? Transpose::kYes : Transpose::kNo, x,
           tall ? Transpose::kNo : Transpose::kYes, gram);
    matmul(context, gram, Transpose::kNo, gram, Transpose::kNo, squared);
    weighted_sum(context, b, flat(gram), c, flat(squared), flat(quintic));
    matmul(context, tall ? x : quintic, Transpose::kNo, tall ? quintic : x, Transpose::kNo,
           product);
    weighted_sum(context, a, flat(x), 1.0F, flat(product), flat(x));
  }
  if (dtype == DType::kF32) {
    copy(context, flat(x), flat(matrix));
  } else {
    cast(context, flat(x), flat(matrix));
  }
}

double newton_schulz_flops(std::int64_t rows, std::int64_t cols, std::int64_t steps) {
  const auto s = static_cast<double>(std::min(rows, cols));
  const auto l = static_cast<double>(std::max(rows, cols));
  return static_cast<double>(steps) * (4.0 * s * s * l + 2.0 * s * s * s);
}

}  // namespace lockstep::ops
