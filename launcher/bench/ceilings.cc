#include "launcher/bench/ceilings.h"

#include <algorithm>
#include <cstring>

#include "launcher/bench/operands.h"
#include "ops/cpu/parallel.h"
#include "ops/matmul.h"

namespace lockstep::launcher {

namespace {

using ops::OpContext;
using ops::Transpose;

constexpr std::size_t kMebibyte = std::size_t{1} << 20;

void copy(const OpContext& context, core::TensorView from, core::TensorView to) {
  if (!context.device_ref().on_cpu()) {
    context.stream().on_device(to.raw(), from.raw(), from.bytes());
    return;
  }
  const auto* source = static_cast<const std::byte*>(from.raw());
  auto* target = static_cast<std::byte*>(to.raw());
  ops::cpu::parallel_chunks(
      context, static_cast<std::int64_t>(from.bytes()), static_cast<std::int64_t>(kMebibyte),
      [&](std::int64_t begin, std::int64_t end, std::int64_t) {
        std::memcpy(target + begin, source + begin, static_cast<std::size_t>(end - begin));
      });
}

}  // namespace

double measure_copy_rate(OpContext& context, core::MemoryTracker& memory, std::size_t bytes,
                         const TimingLimits& limits) {
  RandomPool pool(context, memory);
  Operands operands(context, memory, pool);
  const core::Shape shape{static_cast<std::int64_t>(bytes / sizeof(float))};
  const core::TensorView from = operands.read(core::DType::kF32, shape);
  const core::TensorView to = operands.write(core::DType::kF32, shape);
  const CallTime time = time_calls(context, limits, [&] { copy(context, from, to); });
  return operands.bytes() / time.fastest_seconds;
}

double measure_matrix_rate(OpContext& context, core::MemoryTracker& memory, core::DType dtype,
                           std::int64_t size, const TimingLimits& limits) {
  RandomPool pool(context, memory);
  Operands operands(context, memory, pool);
  const core::TensorView a = operands.read(dtype, {size, size});
  const core::TensorView b = operands.read(dtype, {size, size});
  const core::TensorView out = operands.write(dtype, {size, size});
  const CallTime time = time_calls(
      context, limits, [&] { ops::matmul(context, a, Transpose::kNo, b, Transpose::kYes, out); });
  const auto rows = static_cast<double>(size);
  return 2.0 * rows * rows * rows / time.fastest_seconds;
}

std::int64_t matrix_size_for(const OpContext& context, core::DType dtype) {
  if (context.device_ref().on_cpu()) return 1536;
  return dtype == core::DType::kF32 ? 4096 : 8192;
}

Ceilings measure_ceilings(OpContext& context, core::MemoryTracker& memory, std::size_t memory_bytes,
                          core::DType dtype, const TimingLimits& limits) {
  Ceilings ceilings;
  const std::size_t large = (context.device_ref().on_cpu() ? 128 : 1024) * kMebibyte;
  ceilings.copy_bytes = std::min(large, memory_bytes / 4);
  ceilings.matrix_size = matrix_size_for(context, dtype);
  ceilings.copy_bytes_per_second = measure_copy_rate(context, memory, ceilings.copy_bytes, limits);
  ceilings.matrix_flop_per_second =
      measure_matrix_rate(context, memory, dtype, ceilings.matrix_size, limits);
  return ceilings;
}

}  // namespace lockstep::launcher
