#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "ops/op_context.h"

namespace lockstep::ops {

inline constexpr const char* kTablesRegion = "tables";

// A table that a plan makes once and its op reads in every call, where the op runs: in host memory,
// or in that of a device, counted in region "tables". It must outlive the work that reads it.
// Move-only; data() stays the same when it is moved.
template <typename T>
class PlanTable {
 public:
  PlanTable() = default;
  // Returns when the device has the rows, so that work on any of its streams may read them.
  PlanTable(const OpContext& context, core::MemoryTracker& memory, std::vector<T> rows)
      : size_(static_cast<std::int64_t>(rows.size())) {
    if (context.device_ref().on_cpu() || rows.empty()) {
      host_ = std::move(rows);
      return;
    }
    const std::size_t bytes = rows.size() * sizeof(T);
    device_ = core::Buffer(memory, kTablesRegion, bytes, context.device_ref());
    context.stream().to_device(device_.data(), rows.data(), bytes);
    context.stream().synchronize();
  }
  PlanTable(PlanTable&&) noexcept = default;
  PlanTable& operator=(PlanTable&&) noexcept = default;

  const T* data() const {
    return device_.empty() ? host_.data() : static_cast<const T*>(device_.data());
  }
  std::int64_t size() const { return size_; }

 private:
  std::vector<T> host_;
  core::Buffer device_;
  std::int64_t size_ = 0;
};

}  // namespace lockstep::ops
