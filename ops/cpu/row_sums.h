#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ops/cpu/parallel.h"
#include "ops/cpu/row_io.h"

// Sums along rows and over rows, in orders that depend on the shape alone.
namespace lockstep::ops::cpu {

// The sum of f(i) for i in [0, n). Two sums run side by side, one per half, because one alone waits
// for the latency of each addition. f comes by value: behind a reference the loop does not
// vectorise.
template <typename A, typename F>
A sum_over(std::int64_t n, F f) {
  const std::int64_t half = n / 2;
  A s0{}, s1{};
#pragma omp simd reduction(+ : s0, s1)
  for (std::int64_t i = 0; i < half; ++i) {
    s0 += f(i);
    s1 += f(half + i);
  }
  if (n % 2 != 0) s0 += f(n - 1);
  return s0 + s1;
}

// How a sum over the rows of [rows, ...] is cut: chunks of `grain` rows, at most 64 of them, each
// with a slot of partial sums.
struct RowChunks {
  std::int64_t grain;
  std::int64_t count;

  RowChunks(std::int64_t rows, std::int64_t cols)
      : grain(std::max(rows_per_chunk(cols), ceil_div(rows, 64))),
        count(chunk_count(rows, grain)) {}
};

// out[0, n) = the sum over `count` slots of partial sums, in order of slot, rounded once. Slot s
// begins at partials + s * stride; slot 0 is overwritten by the sum.
template <typename T>
void combine_partials(const OpContext& context, core::AccumulateT<T>* partials, std::int64_t count,
                      std::int64_t stride, std::int64_t n, T* out) {
  using A = core::AccumulateT<T>;
  if (count == 0) {
    std::fill_n(out, n, T{});
    return;
  }
  parallel_chunks(context, n, 1024, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    for (std::int64_t slot = 1; slot < count; ++slot) {
      const A* from = partials + slot * stride;
#pragma omp simd
      for (std::int64_t c = begin; c < end; ++c)
        partials[c] += from[c];
    }
    store_row(partials + begin, out + begin, end - begin);
  });
}

// Cuts one block of scratch memory into arrays of A, each beginning on a cache line.
template <typename A>
class Carver {
 public:
  // Room for `arrays` arrays of `elements` elements.
  static std::size_t bytes(std::int64_t arrays, std::int64_t elements) {
    return static_cast<std::size_t>(arrays * padded(elements)) * sizeof(A);
  }
  static std::int64_t padded(std::int64_t elements) {
    constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(A));
    return ceil_div(elements, kLine) * kLine;
  }

  explicit Carver(std::byte* memory) : next_(reinterpret_cast<A*>(memory)) {}

  // `arrays` arrays of `elements` elements, padded(elements) apart.
  A* take(std::int64_t arrays, std::int64_t elements) {
    A* taken = next_;
    next_ += arrays * padded(elements);
    return taken;
  }

 private:
  A* next_;
};

}  // namespace lockstep::ops::cpu
