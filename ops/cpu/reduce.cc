#include <algorithm>

#include "ops/cpu/dense_bodies.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row_io.h"
#include "ops/cpu/row_sums.h"
#include "ops/cpu/scratch_sizes.h"

namespace lockstep::ops::cpu {

namespace {

constexpr std::int64_t kColumns = 1024;  // of a row, widened at a time

// sums[c] += the values of columns [begin, begin + n) of rows [row_begin, row_end).
template <typename T>
void add_rows(const core::ConstTensorView& x, std::int64_t row_begin, std::int64_t row_end,
              std::int64_t begin, std::int64_t n, core::AccumulateT<T>* sums) {
  using A = core::AccumulateT<T>;
  A buffer[kColumns];
  for (std::int64_t r = row_begin; r < row_end; ++r) {
    const A* values = row_values(x.row<T>(r) + begin, buffer, n);
#pragma omp simd
    for (std::int64_t c = 0; c < n; ++c)
      sums[c] += values[c];
  }
}

template <typename T>
void column_sum_typed(OpContext& context, const core::ConstTensorView& x, T* out) {
  using A = core::AccumulateT<T>;
  const std::int64_t cols = x.cols();
  const RowChunks chunks(x.rows(), cols);
  const std::int64_t stride = Carver<A>::padded(cols);
  A* partials = Carver<A>(context.scratch(column_sum_scratch(x.rows(), cols, x.dtype())))
                    .take(chunks.count, cols);
  parallel_chunks(context, x.rows(), chunks.grain,
                  [&](std::int64_t begin, std::int64_t end, std::int64_t chunk) {
                    A* sums = partials + chunk * stride;
                    std::fill_n(sums, cols, A{});
                    for (std::int64_t c = 0; c < cols; c += kColumns)
                      add_rows<T>(x, begin, end, c, std::min(kColumns, cols - c), sums + c);
                  });
  combine_partials<T>(context, partials, chunks.count, stride, cols, out);
}

}  // namespace

std::size_t column_sum_scratch(std::int64_t rows, std::int64_t cols, core::DType dtype) {
  return core::visit_floating(dtype, [&](auto type) {
    return Carver<core::AccumulateT<decltype(type)>>::bytes(RowChunks(rows, cols).count, cols);
  });
}

void column_sum(OpContext& context, core::ConstTensorView x, core::TensorView out) {
  core::visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    column_sum_typed<T>(context, x, out.data<T>());
  });
}

}  // namespace lockstep::ops::cpu
