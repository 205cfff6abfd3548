#include "models/ops/op_context.h"

#include "core/check.h"
#include "models/ops/cpu/matmul_cache.h"

namespace lockstep::models::ops {

OpContext::OpContext(int threads, core::MemoryTracker& memory)
    : threads_(threads), memory_(memory), matmul_cache_(std::make_unique<MatmulCache>()) {
  LOCKSTEP_CHECK(threads >= 1, "threads of an op context: {}", threads);
}

OpContext::~OpContext() = default;

std::byte* OpContext::scratch(std::size_t bytes) {
  if (bytes > scratch_.bytes()) {
    scratch_ = {};  // first, so that old and new are never held together
    scratch_ = core::Buffer(memory_, "workspace", bytes);
  }
  return static_cast<std::byte*>(scratch_.data());
}

}  // namespace lockstep::models::ops
