#include <cmath>

#include "ops/cpu/bodies.h"
#include "ops/cpu/row_sums.h"
#include "ops/cpu/scratch_sizes.h"

namespace lockstep::ops::cpu {

using core::AccumulateT;
using core::ConstTensorView;
using core::TensorView;

namespace {

template <typename A>
struct Moments {
  A mean;
  A rstd;
};

// The variance is taken from centred values: E[x^2] - E[x]^2 cancels.
template <typename A>
Moments<A> moments(const A* x, std::int64_t n, A eps) {
  const A count = static_cast<A>(n);
  const A mean = sum_over<A>(n, [=](std::int64_t i) { return x[i]; }) / count;
  const A squares = sum_over<A>(n, [=](std::int64_t i) {
    const A centred = x[i] - mean;
    return centred * centred;
  });
  return {mean, A(1) / std::sqrt(squares / count + eps)};
}

template <typename A>
void normalize(const A* x, const A* gain, const A* bias, Moments<A> m, std::int64_t n, A* y) {
  if (bias != nullptr) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i)
      y[i] = (x[i] - m.mean) * m.rstd * gain[i] + bias[i];
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i)
      y[i] = (x[i] - m.mean) * m.rstd * gain[i];
  }
}

template <typename T>
void forward(OpContext& context, ConstTensorView x, ConstTensorView gain, ConstTensorView bias,
             double eps, TensorView y, TensorView mean, TensorView rstd) {
  using A = AccumulateT<T>;
  const std::int64_t rows = x.rows();
  const std::int64_t cols = x.cols();
  const std::int64_t grain = rows_per_chunk(cols);
  const std::int64_t chunks = chunk_count(rows, grain);
  Carver<A> carver(context.scratch(layer_norm_forward_scratch(rows, cols, x.dtype())));
  const A* g = row_values(gain.data<T>(), carver.take(1, cols), cols);
  A* bias_scratch = carver.take(1, cols);
  const A* b = bias.empty() ? nullptr : row_values(bias.data<T>(), bias_scratch, cols);
  A* buffers = carver.take(chunks, cols);
  parallel_chunks(context, rows, grain, [&](std::int64_t begin, std::int64_t end, std::int64_t c) {
    A* buffer = buffers + c * Carver<A>::padded(cols);
    for (std::int64_t r = begin; r < end; ++r) {
      const A* values = row_values(x.row<T>(r), buffer, cols);
      const Moments<A> m = moments(values, cols, static_cast<A>(eps));
      A* target = row_target(y.row<T>(r), buffer);
      normalize(values, g, b, m, cols, target);
      store_row(target, y.row<T>(r), cols);
      mean.data<A>()[r] = m.mean;
      rstd.data<A>()[r] = m.rstd;
    }
  });
}

// One row of backward. With u = dy * gain and h = (x - mean) * rstd:
//   dx = rstd * (u - mean(u) - h * mean(u * h)) + add
template <typename A>
void backward_row(const A* dy, const A* x, const A* gain, const A* add, Moments<A> m,
                  std::int64_t n, A* dx, A* dgain, A* dbias) {
  const std::int64_t half = n / 2;
  A u0{}, u1{}, uh0{}, uh1{};
  const auto visit = [=](std::int64_t i, A& u_sum, A& uh_sum) {
    const A h = (x[i] - m.mean) * m.rstd;
    const A u = dy[i] * gain[i];
    u_sum += u;
    uh_sum += u * h;
    dgain[i] += dy[i] * h;
    dbias[i] += dy[i];
  };
#pragma omp simd reduction(+ : u0, u1, uh0, uh1)
  for (std::int64_t i = 0; i < half; ++i) {
    visit(i, u0, uh0);
    visit(half + i, u1, uh1);
  }
  if (n % 2 != 0) visit(n - 1, u0, uh0);
  const A mean_u = (u0 + u1) / static_cast<A>(n);
  const A mean_uh = (uh0 + uh1) / static_cast<A>(n);
  const auto through = [=](std::int64_t i) {
    const A h = (x[i] - m.mean) * m.rstd;
    return m.rstd * (dy[i] * gain[i] - mean_u - h * mean_uh);
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
              ConstTensorView mean, ConstTensorView rstd, ConstTensorView add, TensorView dx,
              TensorView dgain, TensorView dbias) {
  using A = AccumulateT<T>;
  const std::int64_t cols = x.cols();
  const std::int64_t padded = Carver<A>::padded(cols);
  const RowChunks chunks(x.rows(), cols);
  Carver<A> carver(context.scratch(layer_norm_backward_scratch(x.rows(), cols, x.dtype())));
  const A* g = row_values(gain.data<T>(), carver.take(1, cols), cols);
  A* dgain_partials = carver.take(chunks.count, cols);
  A* dbias_partials = carver.take(chunks.count, cols);
  A* buffers = carver.take(3 * chunks.count, cols);
  parallel_chunks(
      context, x.rows(), chunks.grain, [&](std::int64_t begin, std::int64_t end, std::int64_t c) {
        A* buffer = buffers + 3 * c * padded;
        A* chunk_dgain = std::fill_n(dgain_partials + c * padded, padded, A{}) - padded;
        A* chunk_dbias = std::fill_n(dbias_partials + c * padded, padded, A{}) - padded;
        for (std::int64_t r = begin; r < end; ++r) {
          const A* dy_row = row_values(dy.row<T>(r), buffer, cols);
          const A* x_row = row_values(x.row<T>(r), buffer + padded, cols);
          const A* add_row =
              add.empty() ? nullptr : row_values(add.row<T>(r), buffer + 2 * padded, cols);
          A* target = row_target(dx.row<T>(r), buffer);
          backward_row(dy_row, x_row, g, add_row, {mean.data<A>()[r], rstd.data<A>()[r]}, cols,
                       target, chunk_dgain, chunk_dbias);
          store_row(target, dx.row<T>(r), cols);
        }
      });
  combine_partials(context, dgain_partials, chunks.count, padded, cols, dgain.data<T>());
  if (!dbias.empty())
    combine_partials(context, dbias_partials, chunks.count, padded, cols, dbias.data<T>());
}

}  // namespace

std::size_t layer_norm_forward_scratch(std::int64_t rows, std::int64_t cols, core::DType dtype) {
  return core::visit_floating(dtype, [&](auto type) {
    const std::int64_t chunks = chunk_count(rows, rows_per_chunk(cols));
    return Carver<AccumulateT<decltype(type)>>::bytes(chunks + 2, cols);
  });
}

std::size_t layer_norm_backward_scratch(std::int64_t rows, std::int64_t cols, core::DType dtype) {
  return core::visit_floating(dtype, [&](auto type) {
    const RowChunks chunks(rows, cols);
    return Carver<AccumulateT<decltype(type)>>::bytes(1 + 5 * chunks.count, cols);
  });
}

void layer_norm_forward(OpContext& context, ConstTensorView x, ConstTensorView gain,
                        ConstTensorView bias, double eps, TensorView y, TensorView mean,
                        TensorView rstd) {
  core::visit_floating(x.dtype(), [&](auto type) {
    forward<decltype(type)>(context, x, gain, bias, eps, y, mean, rstd);
  });
}

void layer_norm_backward(OpContext& context, ConstTensorView dy, ConstTensorView x,
                         ConstTensorView gain, ConstTensorView mean, ConstTensorView rstd,
                         ConstTensorView add, TensorView dx, TensorView dgain, TensorView dbias) {
  core::visit_floating(x.dtype(), [&](auto type) {
    backward<decltype(type)>(context, dy, x, gain, mean, rstd, add, dx, dgain, dbias);
  });
}

}  // namespace lockstep::ops::cpu
