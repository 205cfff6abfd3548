#include "ops/cached_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/check.h"
#include "ops/cpu/parallel.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::TensorView;

namespace {

// One head of one query over the keys k, whose columns from first_column on are the head's.
template <typename T>
void attend(const T* query, ConstTensorView k, ConstTensorView v, std::int64_t first_column,
            std::int64_t width, double scale, T* out) {
  using A = core::AccumulateT<T>;
  const std::int64_t keys = k.rows();
  std::vector<A> weights(static_cast<std::size_t>(keys));
  std::vector<A> sums(static_cast<std::size_t>(width));
  for (std::int64_t key = 0; key < keys; ++key) {
    const T* row = k.row<T>(key) + first_column;
    A dot = 0;
#pragma omp simd reduction(+ : dot)
    for (std::int64_t i = 0; i < width; ++i)
      dot += static_cast<A>(query[i]) * static_cast<A>(row[i]);
    weights[static_cast<std::size_t>(key)] = dot * static_cast<A>(scale);
  }
  const A greatest = *std::max_element(weights.begin(), weights.end());
  A total = 0;
  for (A& weight : weights)
    total += weight = std::exp(weight - greatest);
  for (std::int64_t key = 0; key < keys; ++key) {
    const T* row = v.row<T>(key) + first_column;
    const A weight = weights[static_cast<std::size_t>(key)];
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i)
      sums[static_cast<std::size_t>(i)] += weight * static_cast<A>(row[i]);
  }
  for (std::int64_t i = 0; i < width; ++i)
    out[i] = static_cast<T>(sums[static_cast<std::size_t>(i)] / total);
}

}  // namespace

void cached_attention(OpContext& context, const AttentionSpec& spec, ConstTensorView q,
                      ConstTensorView k, ConstTensorView v, TensorView out) {
  constexpr const char* kOp = "cached_attention";
  LOCKSTEP_CHECK(context.device().type == core::DeviceType::kCpu, "{} on a device", kOp);
  LOCKSTEP_CHECK(spec.sequences == 1 && spec.causal && !spec.dropout.active(),
                 "{}: one causal sequence without dropout", kOp);
  LOCKSTEP_CHECK(spec.length > 0 && spec.length <= k.rows(), "{}: {} new positions of {}", kOp,
                 spec.length, k.rows());
  const std::int64_t width = spec.head_width;
  check_matrix(kOp, "q", q, q.dtype(), spec.length, spec.heads * width);
  check_matrix(kOp, "out", out, q.dtype(), spec.length, spec.heads * width);
  check_matrix(kOp, "k", k, q.dtype(), k.rows(), spec.kv_heads * width);
  check_matrix(kOp, "v", v, q.dtype(), k.rows(), spec.kv_heads * width);
  const std::int64_t before = k.rows() - spec.length;
  core::visit_floating(q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    cpu::parallel_chunks(
        context, spec.length * spec.heads, cpu::rows_per_chunk(k.rows() * width),
        [&](std::int64_t begin, std::int64_t end, std::int64_t) {
          for (std::int64_t n = begin; n < end; ++n) {
            const std::int64_t row = n / spec.heads;
            const std::int64_t head = n % spec.heads;
            const std::int64_t kv_column = head / (spec.heads / spec.kv_heads) * width;
            const std::int64_t last = before + row + 1;
            const std::int64_t first =
                spec.window == 0 ? 0 : std::max<std::int64_t>(0, last - spec.window);
            attend(q.row<T>(row) + head * width, k.slice_rows(first, last),
                   v.slice_rows(first, last), kv_column, width, spec.scale,
                   out.row<T>(row) + head * width);
          }
        });
  });
}

}  // namespace lockstep::ops
