#include <vector>

#include "ops/cuda/bodies.h"
#include "ops/cuda/op_kernel.cuh"
#include "ops/rope_table.h"

namespace lockstep::ops::cuda {

namespace {

constexpr unsigned kThreads = 256;

// A thread rotates a piece of the lower half of a head with the piece of the upper half.
struct RopeShape {
  std::int64_t rows;
  std::int64_t heads;
  std::int64_t half;  // of the width of a head
  std::int64_t length;
  std::int64_t pieces;  // of a half
  float sign;
};

template <typename T>
__global__ void rope_kernel(RopeShape s, Rows<const float> cosines, Rows<const float> sines,
                            Rows<T> x) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t head = index / s.pieces;
  const std::int64_t row = head / s.heads;
  if (row >= s.rows) return;
  const std::int64_t at = index % s.pieces * kLane;
  const std::int64_t n = s.half - at;
  T* low = x.row(row) + head % s.heads * 2 * s.half + at;
  T* high = low + s.half;
  float a[kLane];
  float b[kLane];
  float c[kLane];
  float d[kLane];
  load(low, n, x.aligned, a);
  load(high, n, x.aligned, b);
  load(cosines.row(row % s.length) + at, n, cosines.aligned, c);
  load(sines.row(row % s.length) + at, n, sines.aligned, d);
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const float sine = s.sign * d[i];
    const float turned = a[i] * c[i] - b[i] * sine;
    b[i] = b[i] * c[i] + a[i] * sine;
    a[i] = turned;
  }
  store(a, n, x.aligned, low);
  store(b, n, x.aligned, high);
}

}  // namespace

void fill_rope_table(OpContext& context, double theta, const RopeScaling& scaling,
                     TensorView cosines, TensorView sines) {
  LOCKSTEP_CHECK(cosines.dtype() == DType::kF32 && all_contiguous({cosines, sines}),
                 "fill_rope_table: tables on a GPU are fp32 and contiguous");
  std::vector<float> table(static_cast<std::size_t>(2 * cosines.elements()));
  TensorView host_cosines(table.data(), DType::kF32, cosines.shape());
  TensorView host_sines(table.data() + cosines.elements(), DType::kF32, sines.shape());
  fill_rope_values<float>(theta, scaling, host_cosines, host_sines);
  context.stream().to_device(pointer_of<void>(cosines), host_cosines.raw(), cosines.bytes());
  context.stream().to_device(pointer_of<void>(sines), host_sines.raw(), sines.bytes());
  context.stream().synchronize();
}

void rope(OpContext& context, RopeDirection direction, std::int64_t length, std::int64_t head_width,
          ConstTensorView cosines, ConstTensorView sines, TensorView x) {
  const std::int64_t half = head_width / 2;
  const RopeShape s{
      x.rows(), x.cols() / head_width, half,
      length,   ceil_div(half, kLane), direction == RopeDirection::kForward ? 1.0F : -1.0F};
  const Grid grid{block_count(ceil_div(s.rows * s.heads * s.pieces, kThreads)), kThreads, 0};
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("rope", rope_kernel<T>, grid, context.stream(), s, rows_of<const float>(cosines),
           rows_of<const float>(sines), rows_of<T>(x, half));
  });
}

}  // namespace lockstep::ops::cuda
