#include <cmath>

#include "ops/cpu/bodies.h"
#include "ops/cpu/row_sums.h"
#include "ops/cpu/scratch_sizes.h"

namespace lockstep::ops::cpu {

using core::AccumulateT;
using core::ConstTensorView;
using core::TensorView;

namespace {

// One group of n elements; returns rstd.
template <typename A>
A normalize(const A* x, const A* gain, A eps, std::int64_t n, A* y) {
  const A squares = sum_over<A>(n, [=](std::int64_t i) { return x[i] * x[i]; });
  const A rstd = A(1) / std::sqrt(squares / static_cast<A>(n) + eps);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i)
    y[i] = x[i] * rstd * gain[i];
  return rstd;
}

template <typename T>
void forward(OpContext& context, ConstTensorView x, ConstTensorView gain, double eps,
             std::int64_t heads, TensorView y, TensorView rstd) {
  using A = AccumulateT<T>;
  const std::int64_t cols = x.cols();
  const std::int64_t width = cols / heads;
  const std::int64_t grain = rows_per_chunk(cols);
  const std::int64_t chunks = chunk_count(x.rows(), grain);
  Carver<A> carver(context.scratch(rms_norm_forward_scratch(x.rows(), cols, x.dtype())));
  const A* g = row_values(gain.data<T>(), carver.take(1, width), width);
  A* buffers = carver.take(chunks, cols);
  parallel_chunks(
      context, x.rows(), grain, [&](std::int64_t begin, std::int64_t end, std::int64_t c) {
        A* buffer = buffers + c * Carver<A>::padded(cols);
        for (std::int64_t r = begin; r < end; ++r) {
          const A* values = row_values(x.row<T>(r), buffer, cols);
          A* target = row_target(y.row<T>(r), buffer);
          for (std::int64_t h = 0; h < heads; ++h) {
            rstd.data<A>()[r * heads + h] =
                normalize(values + h * width, g, static_cast<A>(eps), width, target + h * width);
          }
          store_row(target, y.row<T>(r), cols);
        }
      });
}

// One group of backward. With u = dy * gain and h = x * rstd:  dx = rstd * (u - h * mean(u * h)) +
// add.
template <typename A>
void backward_group(const A* dy, const A* x, const A* gain, const A* add, A rstd, std::int64_t n,
                    A* dx, A* dgain) {
  const std::int64_t half = n / 2;
  A s0{}, s1{};
  const auto visit = [=](std::int64_t i, A& sum) {
    const A h = x[i] * rstd;
    sum += dy[i] * gain[i] * h;
    dgain[i] += dy[i] * h;
  };
#pragma omp simd reduction(+ : s0, s1)
  for (std::int64_t i = 0; i < half; ++i) {
    visit(i, s0);
    visit(half + i, s1);
  }
  if (n % 2 != 0) visit(n - 1, s0);
  const A mean_uh = (s0 + s1) / static_cast<A>(n);
  const auto through = [=](std::int64_t i) {
    return rstd * (dy[i] * gain[i] - x[i] * rstd * mean_uh);
  };
  if (add != nullptr) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i)
      dx[i] = through(i) + add[i];
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i)
      dx[i] = through(i);
  }
}

template <typename T>
void backward(OpContext& context, ConstTensorView dy, ConstTensorView x, ConstTensorView gain,
              ConstTensorView rstd, std::int64_t heads, ConstTensorView add, TensorView dx,
              TensorView dgain) {
  using A = AccumulateT<T>;
  const std::int64_t cols = x.cols();
  const std::int64_t width = cols / heads;
  const std::int64_t padded = Carver<A>::padded(cols);
  const std::int64_t padded_width = Carver<A>::padded(width);
  const RowChunks chunks(x.rows(), cols);
  Carver<A> carver(context.scratch(rms_norm_backward_scratch(x.rows(), cols, heads, x.dtype())));
  const A* g = row_values(gain.data<T>(), carver.take(1, width), width);
  A* partials = carver.take(chunks.count, width);
  A* buffers = carver.take(3 * chunks.count, cols);
  parallel_chunks(
      context, x.rows(), chunks.grain, [&](std::int64_t begin, std::int64_t end, std::int64_t c) {
        A* buffer = buffers + 3 * c * padded;
        A* chunk_dgain = std::fill_n(partials + c * padded_width, padded_width, A{}) - padded_width;
        for (std::int64_t r = begin; r < end; ++r) {
          const A* dy_row = row_values(dy.row<T>(r), buffer, cols);
          const A* x_row = row_values(x.row<T>(r), buffer + padded, cols);
          const A* add_row =
              add.empty() ? nullptr : row_values(add.row<T>(r), buffer + 2 * padded, cols);
          A* target = row_target(dx.row<T>(r), buffer);
          for (std::int64_t h = 0; h < heads; ++h) {
            const std::int64_t at = h * width;
            backward_group(dy_row + at, x_row + at, g, add_row == nullptr ? nullptr : add_row + at,
                           rstd.data<A>()[r * heads + h], width, target + at, chunk_dgain);
          }
          store_row(target, dx.row<T>(r), cols);
        }
      });
  combine_partials(context, partials, chunks.count, padded_width, width, dgain.data<T>());
}

}  // namespace

std::size_t rms_norm_forward_scratch(std::int64_t rows, std::int64_t cols, core::DType dtype) {
  return core::visit_floating(dtype, [&](auto type) {
    const std::int64_t chunks = chunk_count(rows, rows_per_chunk(cols));
    return Carver<AccumulateT<decltype(type)>>::bytes(chunks + 1, cols);
  });
}

std::size_t rms_norm_backward_scratch(std::int64_t rows, std::int64_t cols, std::int64_t heads,
                                      core::DType dtype) {
  return core::visit_floating(dtype, [&](auto type) {
    using A = AccumulateT<decltype(type)>;
    const RowChunks chunks(rows, cols);
    return Carver<A>::bytes(1 + chunks.count, cols / heads) +
           Carver<A>::bytes(3 * chunks.count, cols);
  });
}

void rms_norm_forward(OpContext& context, ConstTensorView x, ConstTensorView gain, double eps,
                      std::int64_t heads, TensorView y, TensorView rstd) {
  core::visit_floating(x.dtype(), [&](auto type) {
    forward<decltype(type)>(context, x, gain, eps, heads, y, rstd);
  });
}

void rms_norm_backward(OpContext& context, ConstTensorView dy, ConstTensorView x,
                       ConstTensorView gain, ConstTensorView rstd, std::int64_t heads,
                       ConstTensorView add, TensorView dx, TensorView dgain) {
  core::visit_floating(x.dtype(), [&](auto type) {
    backward<decltype(type)>(context, dy, x, gain, rstd, heads, add, dx, dgain);
  });
}

}  // namespace lockstep::ops::cpu
