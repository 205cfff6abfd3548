#include <algorithm>
#include <array>

#include "ops/cpu/bodies.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row_io.h"

namespace lockstep::ops::cpu {

namespace {

constexpr std::int64_t kGrain = 65536;  // elements of one chunk
constexpr std::int64_t kTileElements = 1024;

template <typename T>
void add_chunk(const T* values, std::int64_t n, bool overwrite, float* sum) {
  std::array<float, kTileElements> tile;
  for (std::int64_t i = 0; i < n; i += kTileElements) {
    const std::int64_t count = std::min(kTileElements, n - i);
    if (overwrite) {
      load_row(values + i, sum + i, count);
      continue;
    }
    const float* addend = row_values(values + i, tile.data(), count);
#pragma omp simd
    for (std::int64_t k = 0; k < count; ++k)
      sum[i + k] += addend[k];
  }
}

}  // namespace

void accumulate(OpContext& context, core::ConstTensorView values, bool overwrite,
                core::TensorView sum) {
  const auto run = [&](auto tag) {
    using T = decltype(tag);
    parallel_chunks(context, values.elements(), kGrain,
                    [&](std::int64_t begin, std::int64_t end, std::int64_t) {
                      add_chunk(values.data<T>() + begin, end - begin, overwrite,
                                sum.data<float>() + begin);
                    });
  };
  switch (values.dtype()) {
    case core::DType::kF32:
      return run(float{});
    case core::DType::kBF16:
      return run(core::BFloat16{});
    case core::DType::kF16:
      return run(core::Float16{});
    default:
      LOCKSTEP_CHECK(false, "accumulate: values of {}", core::name_of(values.dtype()));
  }
}

}  // namespace lockstep::ops::cpu
