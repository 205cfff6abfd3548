#include "ops/cuda/bodies.h"
#include "ops/cuda/op_kernel.cuh"

namespace lockstep::ops::cuda {

namespace {

template <typename From, typename To>
__global__ void cast_kernel(Walk walk, Rows<const From> from, Rows<To> to) {
  const Piece p(walk);
  if (p.count <= 0) return;
  float v[kLane];
  load(from.data + p.col, p.count, from.aligned, v);
  store(v, p.count, to.aligned, to.data + p.col);
}

}  // namespace

void cast(OpContext& context, ConstTensorView from, TensorView to) {
  const Walk walk(1, to.elements(), true);
  visit_compute(from.dtype(), [&](auto from_type) {
    visit_compute(to.dtype(), [&](auto to_type) {
      using From = decltype(from_type);
      using To = decltype(to_type);
      launch("cast", cast_kernel<From, To>, walk.grid(), context.stream(), walk,
             flat_of<const From>(from), flat_of<To>(to));
    });
  });
}

}  // namespace lockstep::ops::cuda
