#pragma once

#include <cstddef>
#include <memory>

#include "core/memory.h"

namespace lockstep::models::ops {

class MatmulCache;

// What every op is given: how many threads it may use, its cached GEMM primitives, and scratch
// memory. One per rank; ops are called from one thread at a time. No result may depend on
// `threads`: loops are cut by shape alone and partial results are combined in a fixed order.
class OpContext {
 public:
  OpContext(int threads, core::MemoryTracker& memory);
  ~OpContext();

  int threads() const { return threads_; }
  MatmulCache& matmul_cache() { return *matmul_cache_; }

  // Scratch of at least `bytes`, 64-byte aligned, valid until the next call of scratch(); grows in
  // region "workspace", so it is allocated in the first step only. An op that needs several pieces
  // asks once and carves.
  std::byte* scratch(std::size_t bytes);

 private:
  int threads_;
  core::MemoryTracker& memory_;
  std::unique_ptr<MatmulCache> matmul_cache_;
  core::Buffer scratch_;
};

}  // namespace lockstep::models::ops
