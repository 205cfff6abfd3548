#include "ops/op_context.h"

#include <cstring>

#include "core/check.h"
#include "ops/cpu/matmul_cache.h"
#include "ops/op_bodies.h"

namespace lockstep::ops {

OpContext::OpContext(int threads, core::MemoryTracker& memory)
    : threads_(threads),
      memory_(memory),
      bodies_(&cpu_op_bodies()),
      matmul_cache_(std::make_unique<MatmulCache>()) {
  LOCKSTEP_CHECK(threads >= 1, "threads of an op context: {}", threads);
}

OpContext::OpContext(int threads, core::MemoryTracker& memory, core::DeviceRef device,
                     const OpBodies& bodies, Determinism determinism)
    : threads_(threads),
      memory_(memory),
      device_(device),
      bodies_(&bodies),
      determinism_(determinism),
      matmul_cache_(std::make_unique<MatmulCache>()),
      stream_(device),
      uploads_(device) {
  LOCKSTEP_CHECK(threads >= 1, "threads of an op context: {}", threads);
  if (bodies.open_libraries != nullptr) libraries_ = bodies.open_libraries(*this);
}

OpContext::~OpContext() {
  if (!device_.on_cpu()) device_.runtime->synchronize(stream_.handle());
  if (libraries_ != nullptr) bodies_->close_libraries(libraries_);
}

void OpContext::wait() const {
  if (!device_.on_cpu()) stream_.synchronize();
}

void OpContext::upload(void* to, const void* from, std::size_t bytes) {
  if (device_.on_cpu()) {
    std::memcpy(to, from, bytes);
  } else {
    uploads_.upload(stream_, to, from, bytes);
  }
}

std::byte* OpContext::scratch(std::size_t bytes) {
  if (bytes > scratch_.bytes()) {
    scratch_ = {};  // first, so that old and new are never held together
    scratch_ = device_.on_cpu() ? core::Buffer(memory_, "workspace", bytes)
                                : core::Buffer(memory_, "workspace", bytes, device_);
  }
  return static_cast<std::byte*>(scratch_.data());
}

}  // namespace lockstep::ops
