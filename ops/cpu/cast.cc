#include "core/dtype.h"
#include "ops/cpu/bodies.h"
#include "ops/cpu/parallel.h"

namespace lockstep::ops::cpu {

void cast(OpContext& context, core::ConstTensorView from, core::TensorView to) {
  constexpr std::int64_t kGrain = 65536;  // elements of one chunk
  const auto* source = static_cast<const std::byte*>(from.raw());
  auto* target = static_cast<std::byte*>(to.raw());
  parallel_chunks(context, to.elements(), kGrain,
                  [&](std::int64_t begin, std::int64_t end, std::int64_t) {
                    const auto first = static_cast<std::size_t>(begin);
                    core::convert(from.dtype(), source + first * core::size_of(from.dtype()),
                                  to.dtype(), target + first * core::size_of(to.dtype()),
                                  static_cast<std::size_t>(end - begin));
                  });
}

}  // namespace lockstep::ops::cpu
