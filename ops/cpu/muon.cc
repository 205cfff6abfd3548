#include "ops/muon.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "ops/cpu/bodies.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row_io.h"
#include "ops/muon_rules.h"
#include "ops/update_rules.h"

namespace lockstep::ops::cpu {

using core::ConstTensorView;
using core::TensorView;

namespace {

constexpr std::int64_t kGrain = 65536;  // elements of one chunk
constexpr std::int64_t kTile = 1024;    // converted at a time

template <typename F>
void for_each_tile_of(OpContext& context, std::int64_t n, F&& f) {
  parallel_chunks(context, n, kGrain, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    for (std::int64_t at = begin; at < end; at += kTile)
      f(at, std::min(kTile, end - at));
  });
}

// Calls f(T{}) with the type of an iteration.
template <typename F>
void visit_iteration(core::DType dtype, F&& f) {
  if (dtype == core::DType::kF32) return f(float{});
  LOCKSTEP_CHECK(dtype == core::DType::kBF16, "Newton-Schulz in {}, expected fp32 or bf16",
                 core::name_of(dtype));
  f(core::BFloat16{});
}

}  // namespace

void muon_momentum(OpContext& context, const MuonMomentum& rule, const std::int32_t* /*apply*/,
                   UpdateFactor factor, float clamp, ConstTensorView gradient, TensorView moment,
                   TensorView direction) {
  const MomentumAverage average(rule);
  const float bound = clamp > 0.0F ? clamp : std::numeric_limits<float>::infinity();
  for_each_tile_of(context, gradient.elements(), [&](std::int64_t at, std::int64_t n) {
    const float* g = gradient.data<float>() + at;
    float* m = moment.data<float>() + at;
    float* u = direction.empty() ? nullptr : direction.data<float>() + at;
    float kept[kTile];
    float* to = u == nullptr ? kept : u;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i)
      to[i] = average(clamped(g[i] * factor.value, bound), m[i]);
  });
}

void divide_by_norm(OpContext& context, ConstTensorView u, const SumOfSquares* squares, float eps,
                    TensorView out) {
  const float divisor = norm_divisor(*squares, eps);
  visit_iteration(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_each_tile_of(context, u.elements(), [&](std::int64_t at, std::int64_t n) {
      const float* from = u.data<float>() + at;
      float tile[kTile];
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i)
        tile[i] = from[i] / divisor;
      store_row(tile, out.data<T>() + at, n);
    });
  });
}

void weighted_sum(OpContext& context, float a, ConstTensorView x, float b, ConstTensorView y,
                  TensorView out) {
  visit_iteration(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    for_each_tile_of(context, out.elements(), [&](std::int64_t at, std::int64_t n) {
      const float* addend = y.data<float>() + at;
      float tile[kTile];
      load_row(x.data<T>() + at, tile, n);
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i)
        tile[i] = a * tile[i] + b * addend[i];
      store_row(tile, out.data<T>() + at, n);
    });
  });
}

}  // namespace lockstep::ops::cpu
