#include "ops/muon.h"

#include <limits>

#include "ops/cuda/bodies.h"
#include "ops/cuda/op_kernel.cuh"
#include "ops/muon_rules.h"
#include "ops/update_rules.h"

namespace lockstep::ops::cuda {

namespace {

struct Choice {
  const std::int32_t* apply;  // null: it is applied
  const float* factor;        // null: the value
  float value;
};

__global__ void muon_momentum_kernel(Walk walk, MomentumAverage average, Choice choice, float bound,
                                     Rows<const float> gradient, Rows<float> moment,
                                     Rows<float> direction) {
  if (choice.apply != nullptr && *choice.apply == 0) return;
  const Piece p(walk);
  if (p.count <= 0) return;
  const float factor = choice.factor == nullptr ? choice.value : *choice.factor;
  float g[kLane];
  float m[kLane];
  load(gradient.data + p.col, p.count, gradient.aligned, g);
  load(moment.data + p.col, p.count, moment.aligned, m);
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    g[i] = average(clamped(g[i] * factor, bound), m[i]);
  store(m, p.count, moment.aligned, moment.data + p.col);
  if (direction.data != nullptr) store(g, p.count, direction.aligned, direction.data + p.col);
}

template <typename T>
__global__ void divide_by_norm_kernel(Walk walk, Rows<const float> u, const SumOfSquares* squares,
                                      float eps, Rows<T> out) {
  const Piece p(walk);
  if (p.count <= 0) return;
  const float divisor = norm_divisor(*squares, eps);
  float v[kLane];
  load(u.data + p.col, p.count, u.aligned, v);
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    v[i] = v[i] / divisor;
  store(v, p.count, out.aligned, out.data + p.col);
}

template <typename T>
__global__ void weighted_sum_kernel(Walk walk, float a, Rows<const T> x, float b,
                                    Rows<const float> y, Rows<T> out) {
  const Piece p(walk);
  if (p.count <= 0) return;
  float v[kLane];
  float w[kLane];
  load(x.data + p.col, p.count, x.aligned, v);
  load(y.data + p.col, p.count, y.aligned, w);
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    v[i] = a * v[i] + b * w[i];
  store(v, p.count, out.aligned, out.data + p.col);
}

}  // namespace

void muon_momentum(OpContext& context, const MuonMomentum& rule, const std::int32_t* apply,
                   UpdateFactor factor, float clamp, ConstTensorView gradient, TensorView moment,
                   TensorView direction) {
  if (apply != nullptr) check_device_range(apply, sizeof(*apply));
  if (factor.on_device != nullptr) check_device_range(factor.on_device, sizeof(float));
  const Walk walk(1, gradient.elements(), true);
  const float bound = clamp > 0.0F ? clamp : std::numeric_limits<float>::infinity();
  launch("muon_momentum", muon_momentum_kernel, walk.grid(), context.stream(), walk,
         MomentumAverage(rule), Choice{apply, factor.on_device, factor.value}, bound,
         walk.rows_of<const float>(gradient), walk.rows_of<float>(moment),
         walk.rows_of<float>(direction));
}

void divide_by_norm(OpContext& context, ConstTensorView u, const SumOfSquares* squares, float eps,
                    TensorView out) {
  check_device_range(squares, sizeof(*squares));
  const Walk walk(1, u.elements(), true);
  visit_compute(out.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("divide_by_norm", divide_by_norm_kernel<T>, walk.grid(), context.stream(), walk,
           walk.rows_of<const float>(u), squares, eps, walk.rows_of<T>(out));
  });
}

void weighted_sum(OpContext& context, float a, ConstTensorView x, float b, ConstTensorView y,
                  TensorView out) {
  const Walk walk(1, out.elements(), true);
  visit_compute(out.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("weighted_sum", weighted_sum_kernel<T>, walk.grid(), context.stream(), walk, a,
           walk.rows_of<const T>(x), b, walk.rows_of<const float>(y), walk.rows_of<T>(out));
  });
}

}  // namespace lockstep::ops::cuda
