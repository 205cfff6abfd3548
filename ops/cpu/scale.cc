#include "ops/scale.h"

#include <algorithm>

#include "ops/cpu/bodies.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row_io.h"

namespace lockstep::ops::cpu {

namespace {

constexpr std::int64_t kGrain = 65536;  // elements of one chunk
constexpr std::int64_t kTile = 1024;    // converted at a time

}  // namespace

void scale(OpContext& context, double factor, core::TensorView x) {
  core::visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = core::AccumulateT<T>;
    const auto by = static_cast<A>(factor);
    parallel_chunks(context, x.elements(), kGrain,
                    [&](std::int64_t begin, std::int64_t end, std::int64_t) {
                      A tile[kTile];
                      for (std::int64_t at = begin; at < end; at += kTile) {
                        const std::int64_t n = std::min(kTile, end - at);
                        load_row(x.data<T>() + at, tile, n);
#pragma omp simd
                        for (std::int64_t i = 0; i < n; ++i)
                          tile[i] *= by;
                        store_row(tile, x.data<T>() + at, n);
                      }
                    });
  });
}

}  // namespace lockstep::ops::cpu
