#pragma once

#include <cstddef>
#include <type_traits>
#include <vector>

#include "core/check.h"
#include "core/memory.h"
#include "core/pinned_buffer.h"
#include "ops/op_context.h"

namespace lockstep::ops {

inline constexpr const char* kResultsRegion = "results";

// Numbers that ops leave in the memory of their device, and where the host reads them: n values of
// T, zeroes at first. On the CPU both are the same memory. On a device the host may read what was
// fetched into one mirror while the same values of later work are under way into another.
template <typename T>
class Results {
 public:
  static_assert(std::is_trivially_copyable_v<T>, "only plain bytes travel");

  Results(OpContext& context, std::size_t n, core::MemoryTracker& memory, int mirrors = 1)
      : context_(context),
        n_(n),
        device_(memory, kResultsRegion, n * sizeof(T), context.device_ref()) {
    if (context.device_ref().on_cpu()) return;
    for (int m = 0; m < mirrors; ++m)
      mirrors_.emplace_back(context.device_ref(), n * sizeof(T));
  }

  std::size_t size() const { return n_; }

  // Where ops write the values from number i on.
  T* at(std::size_t i = 0) const {
    LOCKSTEP_CHECK_LE(i, n_, "index of a result");
    return static_cast<T*>(device_.data()) + i;
  }

  // Starts bringing the values to the host; they are there when the work of the context that was
  // issued so far is done.
  void fetch(int mirror = 0) {
    if (mirrors_.empty() || n_ == 0) return;
    context_.stream().to_host_later(mirror_at(mirror).data(), device_.data(), n_ * sizeof(T));
  }

  // Value i as it was fetched.
  const T& value(std::size_t i, int mirror = 0) const {
    LOCKSTEP_CHECK_LT(i, n_, "index of a result");
    const void* values = mirrors_.empty() ? device_.data() : mirror_at(mirror).data();
    return static_cast<const T*>(values)[i];
  }
  const T& operator[](std::size_t i) const { return value(i); }

 private:
  const core::PinnedBuffer& mirror_at(int mirror) const {
    LOCKSTEP_CHECK_LT(static_cast<std::size_t>(mirror), mirrors_.size(), "mirror of a result");
    return mirrors_[static_cast<std::size_t>(mirror)];
  }

  OpContext& context_;
  std::size_t n_;
  core::Buffer device_;
  std::vector<core::PinnedBuffer> mirrors_;  // none on the CPU
};

}  // namespace lockstep::ops
