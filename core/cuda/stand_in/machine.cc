#include "core/cuda/stand_in/machine.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>

#include "core/cuda/stand_in/fiber.h"
#include "core/cuda/stand_in/memory.h"
#include "core/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace lockstep::core::cuda {

constinit thread_local Index3 threadIdx{};
constinit thread_local Index3 blockIdx{};
constinit thread_local Index3 blockDim{};
constinit thread_local Index3 gridDim{};

namespace {

constexpr std::size_t kMaxThreads = 1024;
constexpr std::size_t kWarpLanes = 32;
constexpr std::size_t kStackBytes = std::size_t{256} << 10;
constexpr std::size_t kRedZone = 64;  // between arrays of shared memory
constexpr std::size_t kSharedLimit = 227 * 1024;
constexpr std::size_t kStaticSharedLimit = 48 * 1024;

#if defined(__SANITIZE_ADDRESS__)
void forbid(void* p, std::size_t bytes) {
  ASAN_POISON_MEMORY_REGION(p, bytes);
}
void allow(void* p, std::size_t bytes) {
  ASAN_UNPOISON_MEMORY_REGION(p, bytes);
}
#else
void forbid(void*, std::size_t) {}
void allow(void*, std::size_t) {}
#endif

// The shared memory of one block: arrays by tag, each poisoned when it is first named.
class SharedMemory {
 public:
  void begin_block(std::size_t dynamic_bytes) {
    if (memory_.empty()) memory_.resize(kSharedLimit + 64 * kRedZone);
    arrays_.clear();
    static_bytes_ = 0;
    forbid(memory_.data(), memory_.size());
    used_ = kRedZone;
    dynamic_ = take(dynamic_bytes);
  }
  void end() { allow(memory_.data(), memory_.size()); }

  void* dynamic() const { return dynamic_; }

  void* array(const void* tag, std::size_t bytes) {
    for (const Array& known : arrays_)
      if (known.tag == tag) return known.data;
    static_bytes_ += bytes;
    if (static_bytes_ > kStaticSharedLimit) {
      throw Error(ErrorKind::kInternal,
                  fmt::format("{} bytes of fixed shared memory; a block may have {}", static_bytes_,
                              kStaticSharedLimit));
    }
    arrays_.push_back({tag, take(bytes)});
    return arrays_.back().data;
  }

 private:
  struct Array {
    const void* tag;
    void* data;
  };

  void* take(std::size_t bytes) {
    std::byte* data = memory_.data() + used_;
    used_ += (bytes + 15) / 16 * 16 + kRedZone;
    if (used_ > memory_.size()) {
      throw Error(ErrorKind::kInternal,
                  fmt::format("more shared memory than the {} bytes of a block", kSharedLimit));
    }
    allow(data, bytes);
    std::memset(data, 0xFF, bytes);
    return data;
  }

  std::vector<std::byte> memory_;
  std::vector<Array> arrays_;
  std::size_t used_ = 0;
  std::size_t static_bytes_ = 0;
  void* dynamic_ = nullptr;
};

enum class Waits { kNot, kWarp, kBlock, kDone };

struct AsyncCopy {
  void* to;
  const void* from;
  std::size_t group;
};

struct Thread {
  std::unique_ptr<Fiber> fiber;
  Index3 index;
  Waits waits = Waits::kDone;
  const char* operation = "";  // of the warp, that it waits in
  unsigned line = 0;           // of the barrier that it waits at
  std::size_t operations = 0;  // of the warp, begun so far
  std::deque<AsyncCopy> copies;
  std::size_t groups = 0;  // committed
};

struct alignas(16) WarpRoom {
  std::byte slots[2][kWarpLanes * WarpSlots::kBytes];
  int arrived = 0;
};

// Runs the blocks of one launch. One for each OS thread, kept for its fibers and their stacks.
class Machine {
 public:
  ~Machine() {
    if (stacks_ != nullptr) munmap(stacks_, kMaxThreads * kStackBytes);
  }

  void run(const char* name, const Grid& grid, void (*body)(const void*), const void* argument);
  SharedMemory& shared() { return shared_; }

  WarpSlots exchange(const char* operation, const void* value, std::size_t bytes);
  void wait_for_block(unsigned line);
  Thread& current() { return *current_; }

 private:
  void make_fibers(std::size_t count);
  void run_block(unsigned block);
  bool run_ready_threads();
  void release_block();
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void fail_divergence() const;
  static void run_thread(void* machine);
  void switch_to(Thread& thread);
  std::string describe(const Thread& thread) const;

  const char* name_ = "";
  void (*body_)(const void*) = nullptr;
  const void* argument_ = nullptr;
  std::size_t count_ = 0;
  std::vector<Thread> threads_;
  std::vector<WarpRoom> warps_;
  SharedMemory shared_;
  Thread* current_ = nullptr;
  std::exception_ptr failure_;
  std::byte* stacks_ = nullptr;
};

Machine& machine() {
  static thread_local Machine instance;
  return instance;
}

void Machine::make_fibers(std::size_t count) {
  if (stacks_ == nullptr) {
    void* p = mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw Error(ErrorKind::kOutOfMemory, "no memory for the stacks of fibers");
    stacks_ = static_cast<std::byte*>(p);
    threads_.resize(kMaxThreads);
    warps_.resize(kMaxThreads / kWarpLanes);
  }
  for (std::size_t t = 0; t < count; ++t) {
    if (threads_[t].fiber == nullptr) {
      threads_[t].fiber = std::make_unique<Fiber>(stacks_ + t * kStackBytes, kStackBytes);
      threads_[t].index.x = static_cast<unsigned>(t);
    }
  }
}

void Machine::run_thread(void* self) {
  auto* m = static_cast<Machine*>(self);
  try {
    m->body_(m->argument_);
  } catch (...) {
    if (!m->failure_) m->failure_ = std::current_exception();
  }
  m->current_->waits = Waits::kDone;
}

void Machine::switch_to(Thread& thread) {
  current_ = &thread;
  threadIdx = thread.index;
  thread.fiber->resume();
}

bool Machine::run_ready_threads() {
  bool any = false;
  const bool reverse = stand_in_settings().reverse;
  for (std::size_t i = 0; i < count_; ++i) {
    Thread& thread = threads_[reverse ? count_ - 1 - i : i];
    if (thread.waits != Waits::kNot) continue;
    any = true;
    switch_to(thread);
    if (failure_) {
      const std::exception_ptr failure = std::exchange(failure_, nullptr);
      const std::string where = describe(thread);
      try {
        std::rethrow_exception(failure);
      } catch (const std::exception& e) {
        throw Error(ErrorKind::kInternal, fmt::format("{}: {}", where, e.what()));
      }
    }
  }
  return any;
}

// All threads wait: at the same barrier, or else some have gone another way.
void Machine::release_block() {
  const Thread& first = threads_[0];
  for (std::size_t t = 0; t < count_; ++t) {
    if (threads_[t].waits != Waits::kBlock || threads_[t].line != first.line) fail_divergence();
  }
  for (std::size_t t = 0; t < count_; ++t)
    threads_[t].waits = Waits::kNot;
}

void Machine::run_block(unsigned block) {
  blockIdx.x = block;
  for (WarpRoom& warp : warps_)
    warp.arrived = 0;
  for (std::size_t t = 0; t < count_; ++t) {
    Thread& thread = threads_[t];
    thread.waits = Waits::kNot;
    thread.operations = 0;
    thread.copies.clear();
    thread.groups = 0;
    thread.fiber->start(&Machine::run_thread, this);
  }
  for (;;) {
    if (run_ready_threads()) continue;
    const auto done = std::count_if(threads_.begin(), threads_.begin() + static_cast<long>(count_),
                                    [](const Thread& t) { return t.waits == Waits::kDone; });
    if (static_cast<std::size_t>(done) == count_) return;
    release_block();
  }
}

void Machine::run(const char* name, const Grid& grid, void (*body)(const void*),
                  const void* argument) {
  name_ = name;
  body_ = body;
  argument_ = argument;
  count_ = grid.threads;
  if (count_ == 0 || count_ > kMaxThreads || count_ % kWarpLanes != 0) {
    fail(fmt::format("a block of {} threads; whole warps of 32, up to 1024, are allowed", count_));
  }
  if (grid.dynamic_shared > kSharedLimit) {
    fail(fmt::format("{} bytes of shared memory; a block may have {}", grid.dynamic_shared,
                     kSharedLimit));
  }
  make_fibers(count_);
  blockDim = {grid.threads, 1, 1};
  gridDim = {grid.blocks, 1, 1};
  for (unsigned b = 0; b < grid.blocks; ++b) {
    shared_.begin_block(grid.dynamic_shared);
    run_block(stand_in_settings().reverse ? grid.blocks - 1 - b : b);
  }
  shared_.end();
}

WarpSlots Machine::exchange(const char* operation, const void* value, std::size_t bytes) {
  Thread& self = *current_;
  const std::size_t warp_index = self.index.x / kWarpLanes;
  WarpRoom& warp = warps_[warp_index];
  std::byte* slots = warp.slots[self.operations++ % 2];
  if (bytes > 0) std::memcpy(slots + self.index.x % kWarpLanes * WarpSlots::kBytes, value, bytes);
  self.operation = operation;
  self.waits = Waits::kWarp;
  if (++warp.arrived < static_cast<int>(kWarpLanes)) {
    self.fiber->yield();
    return {slots};
  }
  // The last one lets the others go on, once it is sure that all are in the same operation.
  warp.arrived = 0;
  for (std::size_t l = 0; l < kWarpLanes; ++l) {
    Thread& lane = threads_[warp_index * kWarpLanes + l];
    if (std::strcmp(lane.operation, operation) != 0) {
      fail(fmt::format("{} has come to {}, but {} to {}", describe(self), operation, describe(lane),
                       lane.operation));
    }
    lane.waits = Waits::kNot;
  }
  return {slots};
}

void Machine::wait_for_block(unsigned line) {
  current_->waits = Waits::kBlock;
  current_->line = line;
  current_->fiber->yield();
}

std::string Machine::describe(const Thread& thread) const {
  return fmt::format("kernel {}, block {}, thread {}", name_, blockIdx.x, thread.index.x);
}

void Machine::fail(const std::string& what) const {
  throw Error(ErrorKind::kInternal, fmt::format("kernel {}: {}", name_, what));
}

void Machine::fail_divergence() const {
  const auto state = [](const Thread& t) -> std::string {
    switch (t.waits) {
      case Waits::kWarp:
        return fmt::format("waits for its warp in {}", t.operation);
      case Waits::kBlock:
        return fmt::format("waits at the barrier of line {}", t.line);
      case Waits::kDone:
        return "has ended";
      case Waits::kNot:
        break;
    }
    return "runs";
  };
  const Thread& first = threads_[0];
  for (std::size_t t = 1; t < count_; ++t) {
    if (threads_[t].waits == first.waits && threads_[t].line == first.line) continue;
    fail(fmt::format("block {}: thread 0 {}, but thread {} {}", blockIdx.x, state(first), t,
                     state(threads_[t])));
  }
  fail(fmt::format("block {}: every thread {}", blockIdx.x, state(first)));
}

}  // namespace

void* shared_array(const void* tag, std::size_t bytes) {
  return machine().shared().array(tag, bytes);
}

void* dynamic_shared_memory() {
  return machine().shared().dynamic();
}

WarpSlots exchange(const char* operation, const void* value, std::size_t bytes) {
  return machine().exchange(operation, value, bytes);
}

void sync_threads(std::source_location where) {
  machine().wait_for_block(where.line());
}

void sync_warp() {
  exchange("sync_warp", nullptr, 0);
}

unsigned ballot(bool predicate) {
  const WarpSlots slots = exchange("ballot", &predicate, sizeof(predicate));
  unsigned bits = 0;
  for (int l = 0; l < 32; ++l)
    if (*static_cast<const bool*>(slots.of(l))) bits |= 1U << l;
  return bits;
}

// The copy happens when it is waited for, and the target is poisoned until then.
void copy_async(void* to, const void* from) {
  std::memset(to, 0xFF, 16);
  Thread& self = machine().current();
  self.copies.push_back({to, from, self.groups});
}

void copy_async_commit() {
  ++machine().current().groups;
}

void copy_async_wait_for(std::size_t groups_left) {
  Thread& self = machine().current();
  while (!self.copies.empty() && self.copies.front().group + groups_left < self.groups) {
    std::memcpy(self.copies.front().to, self.copies.front().from, 16);
    self.copies.pop_front();
  }
}

void run_grid(const char* name, const Grid& grid, const DeviceStream& stream,
              std::span<const LaunchPointer> arguments, void (*run)(const void* body),
              const void* body) {
  if (grid.blocks == 0) return;
  if (stream.handle() == nullptr) {
    throw Error(ErrorKind::kInternal, fmt::format("kernel {}: started on no stream", name));
  }
  record_call(fmt::format("launch {}", name));
  if (const LaunchObserver observer = stand_in_settings().observer; observer != nullptr)
    observer(name, stream, arguments);
  machine().run(name, grid, run, body);
  check_guards(name);
}

}  // namespace lockstep::core::cuda
