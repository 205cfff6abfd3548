#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "core/tensor.h"
#include "ops/op_context.h"

namespace lockstep::launcher {

// Random numbers on the device of a context, from which operands are filled by copies: the values
// of an operand decide about the power that a device needs, so zeros would flatter it.
class RandomPool {
 public:
  enum class Kind { kNormal, kUnit };  // deviation 1; uniform in [0, 1)

  RandomPool(ops::OpContext& context, core::MemoryTracker& memory)
      : context_(context), memory_(memory) {}

  // Each call goes on in the pool where the last one ended.
  void fill(core::TensorView values, Kind kind);

 private:
  const core::Buffer& pool(core::DType dtype, Kind kind);

  ops::OpContext& context_;
  core::MemoryTracker& memory_;
  std::map<std::pair<core::DType, Kind>, core::Buffer> pools_;
  std::size_t next_ = 0;  // bytes into a pool
};

// The operands of one call of an op, filled with random numbers, and the bytes that the call must
// move: every element that is read, and every one that is written, once.
class Operands {
 public:
  Operands(ops::OpContext& context, core::MemoryTracker& memory, RandomPool& pool)
      : context_(context), memory_(memory), pool_(pool) {}

  // Counted once (read, write) or twice (update).
  core::TensorView read(core::DType dtype, core::Shape shape);
  core::TensorView write(core::DType dtype, core::Shape shape);
  core::TensorView update(core::DType dtype, core::Shape shape);
  // Not counted: where an op reads a part only, or what only the benchmark needs.
  core::TensorView uncounted(core::DType dtype, core::Shape shape,
                             RandomPool::Kind kind = RandomPool::Kind::kNormal);
  // Uniform in [0, vocab).
  std::span<const std::int32_t> tokens(std::int64_t count, std::int64_t vocab);

  void count(core::ConstTensorView view) { bytes_ += static_cast<double>(view.bytes()); }
  double bytes() const { return bytes_; }
  ops::OpContext& context() const { return context_; }
  core::MemoryTracker& memory() const { return memory_; }

 private:
  ops::OpContext& context_;
  core::MemoryTracker& memory_;
  RandomPool& pool_;
  std::vector<core::Buffer> buffers_;
  std::vector<std::vector<std::int32_t>> tokens_;
  double bytes_ = 0.0;
};

}  // namespace lockstep::launcher
