#pragma once

#include <cstddef>
#include <memory>

#include "core/device_runtime.h"
#include "core/memory.h"
#include "core/upload_ring.h"

namespace lockstep::ops {

class MatmulCache;
struct OpBodies;

// What an op on a device may let depend on chance. The CPU's ops never do.
enum class Determinism {
  kRun,  // same build, machine type and shapes: same bits (run.reproducible: run)
  kNone  // also algorithms chosen by timing, and sums whose order varies (run.reproducible: none)
};

// What every op is given: where it runs, how many threads it may use there, what the libraries keep
// for it, and scratch memory. One per rank and device; ops are called from one thread at a time. No
// result may depend on `threads`: loops are cut by shape alone and partial results are combined in
// a fixed order.
class OpContext {
 public:
  // Ops on the CPU: done when the call returns.
  OpContext(int threads, core::MemoryTracker& memory);
  // Ops on a device by its bodies, in order on a stream of this context: a call returns early,
  // unless it returns numbers. `threads` serve what is left to the host.
  OpContext(int threads, core::MemoryTracker& memory, core::DeviceRef device,
            const OpBodies& bodies, Determinism determinism = Determinism::kRun);
  virtual ~OpContext();
  OpContext(const OpContext&) = delete;
  OpContext& operator=(const OpContext&) = delete;

  core::Device device() const { return device_.device; }
  core::DeviceRef device_ref() const { return device_; }
  const OpBodies& bodies() const { return *bodies_; }
  int threads() const { return threads_; }
  Determinism determinism() const { return determinism_; }
  MatmulCache& matmul_cache() { return *matmul_cache_; }  // of the CPU
  const core::DeviceStream& stream() const { return stream_; }
  void* libraries() const { return libraries_; }  // of the bodies (OpBodies::open_libraries)

  // Scratch of at least `bytes` on device(), 64-byte aligned, valid until the next call of
  // scratch() (on a device: until the work issued before that call is done); grows in region
  // "workspace", so it is allocated in the first step only. An op that needs several pieces asks
  // once and carves. Virtual so that the CUDA module, which is loaded late, links nothing of this
  // class.
  virtual std::byte* scratch(std::size_t bytes);

  // Returns when all work issued so far is done.
  void wait() const;

  // Copies host memory, which may change as soon as the call returns, to memory of the device, by
  // way of pinned memory, so that the host does not wait for the work issued before. The CPU copies
  // at once. Virtual for the same reason.
  virtual void upload(void* to, const void* from, std::size_t bytes);

 private:
  int threads_;
  core::MemoryTracker& memory_;
  core::DeviceRef device_;
  const OpBodies* bodies_;
  Determinism determinism_ = Determinism::kRun;
  std::unique_ptr<MatmulCache> matmul_cache_;
  core::DeviceStream stream_;
  core::Buffer scratch_;
  core::UploadRing uploads_;
  void* libraries_ = nullptr;
};

}  // namespace lockstep::ops
