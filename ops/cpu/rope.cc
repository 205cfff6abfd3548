#include <vector>

#include "ops/cpu/parallel.h"
#include "ops/cpu/row_io.h"
#include "ops/cpu/sequence_bodies.h"
#include "ops/rope_table.h"

namespace lockstep::ops::cpu {
namespace {

// Rotates the pairs (x[i], x[i + half]) by the angles of one position; sign -1 turns them back.
template <typename A>
void rotate_head(const A* cosines, const A* sines, A sign, std::int64_t half, A* x) {
  A* low = x;
  A* high = x + half;
#pragma omp simd
  for (std::int64_t i = 0; i < half; ++i) {
    const A a = low[i];
    const A b = high[i];
    const A sine = sign * sines[i];
    low[i] = a * cosines[i] - b * sine;
    high[i] = b * cosines[i] + a * sine;
  }
}

template <typename T>
void rotate(OpContext& context, RopeDirection direction, std::int64_t length,
            std::int64_t head_width, core::ConstTensorView cosines, core::ConstTensorView sines,
            core::TensorView x) {
  using A = core::AccumulateT<T>;
  const A sign = direction == RopeDirection::kForward ? A(1) : A(-1);
  const auto rotate_rows = [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    std::vector<A> buffer(static_cast<std::size_t>(head_width));
    for (std::int64_t r = begin; r < end; ++r) {
      const A* cosine = cosines.row<A>(r % length);
      const A* sine = sines.row<A>(r % length);
      for (T* head = x.row<T>(r); head != x.row<T>(r) + x.cols(); head += head_width) {
        A* values = row_target(head, buffer.data());
        load_row(head, values, head_width);
        rotate_head(cosine, sine, sign, head_width / 2, values);
        store_row(values, head, head_width);
      }
    }
  };
  parallel_chunks(context, x.rows(), rows_per_chunk(x.cols()), rotate_rows);
}

}  // namespace

void fill_rope_table(OpContext&, double theta, const RopeScaling& scaling, core::TensorView cosines,
                     core::TensorView sines) {
  if (cosines.dtype() == core::DType::kF64) {
    fill_rope_values<double>(theta, scaling, cosines, sines);
  } else {
    fill_rope_values<float>(theta, scaling, cosines, sines);
  }
}

void rope(OpContext& context, RopeDirection direction, std::int64_t length, std::int64_t head_width,
          core::ConstTensorView cosines, core::ConstTensorView sines, core::TensorView x) {
  core::visit_floating(x.dtype(), [&](auto tag) {
    rotate<decltype(tag)>(context, direction, length, head_width, cosines, sines, x);
  });
}

}  // namespace lockstep::ops::cpu
