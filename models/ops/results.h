#pragma once

#include <cstddef>
#include <type_traits>

#include "core/check.h"
#include "core/memory.h"
#include "core/pinned_buffer.h"
#include "models/ops/op_context.h"

namespace lockstep::models::ops {

inline constexpr const char* kResultsRegion = "results";

// Numbers that ops leave in the memory of their device, and where the host reads them: n values of
// T, zeroes at first. On the CPU both are the same memory.
template <typename T>
class Results {
 public:
  static_assert(std::is_trivially_copyable_v<T>, "only plain bytes travel");

  Results(OpContext& context, std::size_t n, core::MemoryTracker& memory)
      : context_(context),
        n_(n),
        device_(memory, kResultsRegion, n * sizeof(T), context.device_ref()) {
    if (!context.device_ref().on_cpu())
      host_ = core::PinnedBuffer(context.device_ref(), n * sizeof(T));
  }

  std::size_t size() const { return n_; }

  // Where ops write the values from number i on.
  T* at(std::size_t i = 0) const {
    LOCKSTEP_CHECK_LE(i, n_, "index of a result");
    return static_cast<T*>(device_.data()) + i;
  }

  // Starts bringing the first n values to the host; they are there when the work of the context
  // that was issued so far is done.
  void fetch(std::size_t n) {
    LOCKSTEP_CHECK_LE(n, n_, "results asked for");
    if (host_.bytes() > 0) {
      context_.stream().to_host_later(host_.data(), device_.data(), n * sizeof(T));
    }
  }
  void fetch() { fetch(n_); }

  // Value i as it was fetched.
  const T& operator[](std::size_t i) const {
    LOCKSTEP_CHECK_LT(i, n_, "index of a result");
    const void* values = host_.bytes() > 0 ? host_.data() : device_.data();
    return static_cast<const T*>(values)[i];
  }

 private:
  OpContext& context_;
  std::size_t n_;
  core::Buffer device_;
  core::PinnedBuffer host_;
};

}  // namespace lockstep::models::ops
