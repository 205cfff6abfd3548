#pragma once

#include <array>
#include <cstdint>

#include "core/tensor.h"
#include "ops/gradient_stats.h"
#include "ops/op_context.h"
#include "ops/optimizer_update.h"

// What Muon (Jordan et al. 2024; torch.optim.Muon) does to a matrix beside the update of its
// weights: momentum, and the iteration of Newton and Schulz that brings all singular values near 1.
namespace lockstep::ops {

struct MuonMomentum {
  double momentum = 0.95;
  bool nesterov = true;
};

// One pass over n consecutive elements, with g = gradient[i] * factor, clamped to +-clamp when
// clamp > 0:
//   m = m + (1 - momentum) * (g - m);   u = nesterov ? g + momentum * (m - g) : m
// gradient, moment: fp32 [n]; direction: u, fp32 [n], or empty where only the moment is kept.
// apply: null, or one number in the memory of the context's device, read when the pass runs: 0
// leaves everything as it is; never on the CPU, where who decides calls or does not.
void muon_momentum(OpContext& context, const MuonMomentum& rule, const std::int32_t* apply,
                   UpdateFactor factor, float clamp, core::ConstTensorView gradient,
                   core::TensorView moment, core::TensorView direction);

// out = u / max(||u||, eps), the Frobenius norm given by its squares: as sums_of_squares() leaves
// them. u: fp32 [n]; out: [n], fp32 or bf16, other memory than u.
void divide_by_norm(OpContext& context, core::ConstTensorView u, const SumOfSquares* squares,
                    float eps, core::TensorView out);

// out = a * x + b * y, computed in fp32 and rounded once. y: fp32 [n]; x, out: [n], both fp32 or
// both bf16, and they may be the same.
void weighted_sum(OpContext& context, float a, core::ConstTensorView x, float b,
                  core::ConstTensorView y, core::TensorView out);

// Coefficients and eps of torch.optim.Muon.
inline constexpr std::array<float, 3> kNewtonSchulz = {3.4445F, -4.7750F, 2.0315F};
inline constexpr float kNewtonSchulzEps = 1e-7F;

// Memory that newton_schulz() works in, on the context's device. Sizes in bytes, for matrices of at
// most that many rows and columns each.
struct NewtonSchulzRoom {
  core::TensorView iterate;  // [n] of the iteration's dtype, n = rows * cols
  core::TensorView gram;     // [s * s] of it, s = min(rows, cols)
  core::TensorView quintic;  // [s * s] of it
  core::TensorView product;  // fp32 [max(n, s * s)]
  SumOfSquares* squares = nullptr;
};

// In place: matrix = NS(matrix), fp32 [rows, cols], contiguous. X = matrix / max(||matrix||, eps);
// then `steps` times, with (a, b, c) above and the Gram matrix G of the short side
// (X X^T, or X^T X where there are more rows than columns): Q = b G + c G G, X = a X + Q X (X Q).
// Products are accumulated in fp32 and every result is rounded to `dtype`, fp32 or bf16. The bits
// depend on the matrix alone. A matrix of zeros stays one.
void newton_schulz(OpContext& context, core::TensorView matrix, std::int64_t steps,
                   core::DType dtype, const NewtonSchulzRoom& room);

// Multiplications and additions of an iteration, times 2: 4 s^2 l + 2 s^3 floating-point
// operations.
double newton_schulz_flops(std::int64_t rows, std::int64_t cols, std::int64_t steps);

}  // namespace lockstep::ops
