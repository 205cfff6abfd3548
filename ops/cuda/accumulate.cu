#include "ops/cuda/bodies.h"
#include "ops/cuda/op_kernel.cuh"

namespace lockstep::ops::cuda {

namespace {

template <typename T>
__global__ void accumulate_kernel(Walk walk, Rows<const T> values, bool overwrite,
                                  Rows<float> sum) {
  const Piece p(walk);
  if (p.count <= 0) return;
  float v[kLane];
  load(values.data + p.col, p.count, values.aligned, v);
  if (!overwrite) {
    float s[kLane];
    load(sum.data + p.col, p.count, sum.aligned, s);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      v[i] = s[i] + v[i];
  }
  store(v, p.count, sum.aligned, sum.data + p.col);
}

}  // namespace

void accumulate(OpContext& context, ConstTensorView values, bool overwrite, TensorView sum) {
  const Walk walk(1, sum.elements(), true);
  visit_compute(values.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("accumulate", accumulate_kernel<T>, walk.grid(), context.stream(), walk,
           walk.rows_of<const T>(values), overwrite, walk.rows_of<float>(sum));
  });
}

}  // namespace lockstep::ops::cuda
