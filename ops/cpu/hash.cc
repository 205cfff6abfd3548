#include "core/hash.h"
#include "ops/cpu/bodies.h"
#include "ops/cpu/parallel.h"

namespace lockstep::ops::cpu {

void hash_messages(OpContext& context, const HashPlan& plan, core::ConstTensorView base,
                   std::uint64_t* hashes) {
  const auto* bytes = static_cast<const std::byte*>(base.raw());
  parallel_chunks(context, plan.messages().size(), 1,
                  [&](std::int64_t m, std::int64_t, std::int64_t) {
                    const HashMessage& message = plan.messages().data()[m];
                    core::StreamingHash hash;
                    const HashSegment* segment = plan.segments().data() + message.first_segment;
                    std::int64_t done = 0;
                    for (; done < message.bytes; ++segment) {
                      hash.update(bytes + segment->offset,
                                  static_cast<std::size_t>(segment->end - segment->begin));
                      done = segment->end;
                    }
                    hashes[m] = hash.digest();
                  });
}

}  // namespace lockstep::ops::cpu
