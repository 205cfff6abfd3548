#include <algorithm>
#include <bit>

#include "ops/cuda/bodies.h"
#include "ops/cuda/op_kernel.cuh"

namespace lockstep::ops::cuda {

namespace {

constexpr unsigned kThreads = 256;
constexpr std::int64_t kBlockElements = 16 * kThreads * kLane;  // looked at by a block at a time
// Nearly every launch finds a finite loss and nothing to do, so that few blocks are started.
constexpr std::int64_t kMostBlocks = 256;

// As many views as one launch takes, by value.
template <typename T>
struct ViewTable {
  static constexpr int kMost = 128;
  Rows<const T> views[kMost];  // each walked over as one row
  int count;
  std::int64_t number;    // of the first
  std::int64_t elements;  // of each
};

__device__ bool is_finite(double value) {
  return (std::bit_cast<std::uint64_t>(value) >> 52 & 0x7ff) != 0x7ff;
}

__global__ void expect_finite_kernel(const double* loss, std::int64_t if_not, std::int64_t* first) {
  if (threadIdx.x == 0) *first = is_finite(*loss) ? -1 : if_not;
}

template <typename T>
__device__ bool holds_nonfinite(const Rows<const T>& view, std::int64_t begin,
                                std::int64_t elements) {
  const std::int64_t end = begin + kBlockElements < elements ? begin + kBlockElements : elements;
  bool found = false;
  for (std::int64_t i = begin + static_cast<int>(threadIdx.x) * kLane; i < end;
       i += kThreads * kLane) {
    float v[kLane];
    load(view.data + i, end - i, view.aligned, v);
#pragma unroll
    for (int k = 0; k < kLane; ++k)
      found = found || (std::bit_cast<std::uint32_t>(v[k]) & 0x7fffffffU) >= 0x7f800000U;
  }
  return found;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    first_nonfinite_kernel(ViewTable<T> table, const double* loss, std::int64_t* first) {
  if (is_finite(*loss)) return;
  for (int view = 0; view < table.count; ++view)
    for (std::int64_t begin = blockIdx.x * kBlockElements; begin < table.elements;
         begin += gridDim.x * kBlockElements)
      if (holds_nonfinite(table.views[view], begin, table.elements))
        lower_integer(first, table.number + view);
}

}  // namespace

void first_nonfinite(OpContext& context, std::span<const ConstTensorView> views, const double* loss,
                     std::int64_t* first, std::int64_t number_of_first) {
  check_device_range(loss, sizeof(double));
  check_device_range(first, sizeof(std::int64_t));
  const auto size = static_cast<std::int64_t>(views.size());
  launch("expect_finite", expect_finite_kernel, Grid{1, kWarp, 0}, context.stream(), loss,
         number_of_first + size, first);
  visit_compute(views.front().dtype(), [&](auto type) {
    using T = decltype(type);
    ViewTable<T> table{};
    table.elements = views.front().elements();
    const std::int64_t blocks = std::min(ceil_div(table.elements, kBlockElements), kMostBlocks);
    for (std::int64_t begin = 0; begin < size; begin += ViewTable<T>::kMost) {
      table.number = number_of_first + begin;
      table.count = static_cast<int>(std::min<std::int64_t>(ViewTable<T>::kMost, size - begin));
      for (int i = 0; i < table.count; ++i)
        table.views[i] = flat_of<const T>(views[static_cast<std::size_t>(begin + i)]);
      launch("first_nonfinite", first_nonfinite_kernel<T>, Grid{block_count(blocks), kThreads, 0},
             context.stream(), table, loss, first);
    }
  });
}

}  // namespace lockstep::ops::cuda
