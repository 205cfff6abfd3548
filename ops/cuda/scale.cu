#include "ops/scale.h"

#include "ops/cuda/bodies.h"
#include "ops/cuda/op_kernel.cuh"

namespace lockstep::ops::cuda {

namespace {

template <typename T>
__global__ void scale_kernel(Walk walk, float factor, Rows<T> x) {
  const Piece p(walk);
  if (p.count <= 0) return;
  float v[kLane];
  load(x.data + p.col, p.count, x.aligned, v);
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    v[i] *= factor;
  store(v, p.count, x.aligned, x.data + p.col);
}

}  // namespace

void scale(OpContext& context, double factor, TensorView x) {
  const Walk walk(1, x.elements(), true);
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("scale", scale_kernel<T>, walk.grid(), context.stream(), walk,
           static_cast<float>(factor), flat_of<T>(x));
  });
}

}  // namespace lockstep::ops::cuda
