#include "tests/support/async_device.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "core/cuda/stand_in/machine.h"

namespace lockstep::testing {

namespace {

using core::CopyKind;
using core::DeviceEventHandle;
using core::DeviceStreamHandle;

std::atomic<int> streams_alive{0};
std::atomic<int> events_alive{0};
std::atomic<int> frees_too_early{0};

struct Range {
  const std::byte* begin;
  std::size_t bytes;

  bool holds(const void* p) const {
    const std::less<const void*> before;
    return !before(p, begin) && before(p, begin + bytes);
  }
};

class Stream {
 public:
  explicit Stream(int device)
      : device_(device), creator_(std::this_thread::get_id()), random_(std::random_device{}()) {
    ++streams_alive;
    thread_ = std::thread([this] { run(); });
  }
  ~Stream() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
    --streams_alive;
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  int device() const { return device_; }
  std::thread::id creator() const { return creator_; }

  void push(std::function<void()> work, Touched touched = {}) {
    const std::lock_guard lock(mutex_);
    queue_.push_back({std::move(work), std::move(touched)});
    ++given_;
    changed_.notify_all();
  }
  // Waits for all that touches the memory. Whether there was anything.
  bool finish_with(const Range& memory) {
    std::unique_lock lock(mutex_);
    std::uint64_t target = given_;
    for (auto last = queue_.rbegin(); last != queue_.rend(); ++last, --target) {
      if (!std::any_of(last->touched.begin(), last->touched.end(),
                       [&](const void* p) { return memory.holds(p); })) {
        continue;
      }
      changed_.wait(lock, [&] { return done_ >= target; });
      return true;
    }
    return false;
  }
  int synchronize() {
    std::unique_lock lock(mutex_);
    const std::uint64_t target = given_;
    changed_.wait(lock, [&] { return done_ >= target; });
    return error_;
  }
  void fail(int code) {
    const std::lock_guard lock(mutex_);
    if (error_ == 0) error_ = code;
  }

 private:
  struct Piece {
    std::function<void()> work;
    Touched touched;
  };

  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const Piece& piece = queue_.front();  // which stays there until it is done
      lock.unlock();
      pause();
      piece.work();
      lock.lock();
      queue_.pop_front();
      ++done_;
      changed_.notify_all();
    }
  }
  void pause() {
    const int longest = longest_pause();
    if (longest == 0 || random_() % 8 != 0) return;
    std::this_thread::sleep_for(
        std::chrono::microseconds(random_() % static_cast<unsigned>(longest)));
  }

  int device_;
  std::thread::id creator_;
  std::minstd_rand random_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> queue_;
  std::uint64_t given_ = 0;
  std::uint64_t done_ = 0;
  int error_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

// Streams hold what they record and wait for, so that an event may be destroyed before.
struct EventState {
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t recorded = 0;
  std::uint64_t reached = 0;
  std::chrono::steady_clock::time_point time{};
};

struct Event {
  Event() { ++events_alive; }
  ~Event() { --events_alive; }
  int device = 0;
  std::shared_ptr<EventState> state = std::make_shared<EventState>();
};

Stream* native(DeviceStreamHandle* handle) {
  return reinterpret_cast<Stream*>(handle);
}
Event* native(DeviceEventHandle* handle) {
  return reinterpret_cast<Event*>(handle);
}

const core::DeviceRuntime& plain() {
  return core::cuda::stand_in_runtime();
}

// What is there to free, and who may still touch it. Nothing else asks it: a lock that every piece
// of work took would order the streams, and hide from the thread sanitizer what does not.
struct Inventory {
  std::mutex mutex;
  std::map<Stream*, std::shared_ptr<Stream>> streams;
  std::map<void*, std::size_t> allocations;  // bytes
};

Inventory& inventory() {
  static Inventory all;
  return all;
}

int create_stream(int device, DeviceStreamHandle** stream) {
  if (const int code = plain().use(device); code != 0) return code;
  const auto made = std::make_shared<Stream>(device);
  const std::lock_guard lock(inventory().mutex);
  inventory().streams[made.get()] = made;
  *stream = reinterpret_cast<DeviceStreamHandle*>(made.get());
  return 0;
}

int destroy_stream(DeviceStreamHandle* stream) {
  std::shared_ptr<Stream> last;  // it ends when nobody holds the lock
  const std::lock_guard lock(inventory().mutex);
  const auto found = inventory().streams.find(native(stream));
  last = std::move(found->second);
  inventory().streams.erase(found);
  return 0;
}

int allocate(int device, std::size_t bytes, void** memory) {
  const int code = plain().allocate(device, bytes, memory);
  if (code != 0) return code;
  const std::lock_guard lock(inventory().mutex);
  inventory().allocations[*memory] = bytes;
  return 0;
}

// As cudaFree does, it waits for the work that was given before; here only for what touches the
// memory, since ranks that are threads have one device, where they would wait for each other.
int release(void* memory) {
  Range range{static_cast<const std::byte*>(memory), 0};
  std::vector<std::shared_ptr<Stream>> streams;
  {
    const std::lock_guard lock(inventory().mutex);
    const auto found = inventory().allocations.find(memory);
    if (found == inventory().allocations.end()) return core::cuda::kStandInWrongMemory;
    range.bytes = found->second;
    inventory().allocations.erase(found);
    for (const auto& [raw, stream] : inventory().streams)
      streams.push_back(stream);
  }
  bool early = false;
  for (const auto& stream : streams)
    early = stream->finish_with(range) || early;
  if (early) ++frees_too_early;
  return plain().release(memory);
}

int synchronize(DeviceStreamHandle* stream) {
  return native(stream)->synchronize();
}

// Of the calling rank's streams, for the reason given at release().
int synchronize_device(int device) {
  std::vector<std::shared_ptr<Stream>> streams;
  {
    const std::lock_guard lock(inventory().mutex);
    for (const auto& [raw, stream] : inventory().streams) {
      if (stream->creator() == std::this_thread::get_id()) streams.push_back(stream);
    }
  }
  int code = plain().use(device);
  for (const auto& stream : streams) {
    const int error = stream->synchronize();
    if (code == 0) code = error;
  }
  return code;
}

int copy(void* to, const void* from, std::size_t bytes, CopyKind kind, DeviceStreamHandle* stream) {
  Stream* s = native(stream);
  s->push(
      [=] {
        const int code = plain().copy(to, from, bytes, kind, nullptr);
        if (code != 0) s->fail(code);
      },
      {to, from});
  return 0;
}

int fill(void* memory, int byte, std::size_t bytes, DeviceStreamHandle* stream) {
  if (stream == nullptr) return plain().fill(memory, byte, bytes, nullptr);
  Stream* s = native(stream);
  s->push(
      [=] {
        const int code = plain().fill(memory, byte, bytes, nullptr);
        if (code != 0) s->fail(code);
      },
      {memory});
  return 0;
}

int create_event(int device, DeviceEventHandle** event) {
  if (const int code = plain().use(device); code != 0) return code;
  auto* made = new Event;
  made->device = device;
  *event = reinterpret_cast<DeviceEventHandle*>(made);
  return 0;
}

int destroy_event(DeviceEventHandle* event) {
  delete native(event);
  return 0;
}

int record(DeviceEventHandle* event, DeviceStreamHandle* stream) {
  if (native(event)->device != native(stream)->device()) return core::cuda::kStandInWrongMemory;
  const auto state = native(event)->state;
  std::uint64_t mine = 0;
  {
    const std::lock_guard lock(state->mutex);
    mine = ++state->recorded;
  }
  native(stream)->push([state, mine] {
    const std::lock_guard lock(state->mutex);
    state->reached = std::max(state->reached, mine);
    state->time = std::chrono::steady_clock::now();
    state->changed.notify_all();
  });
  return 0;
}

int wait(DeviceStreamHandle* stream, DeviceEventHandle* event) {
  const auto state = native(event)->state;
  std::uint64_t wanted = 0;
  {
    const std::lock_guard lock(state->mutex);
    wanted = state->recorded;
  }
  native(stream)->push([state, wanted] {
    std::unique_lock lock(state->mutex);
    state->changed.wait(lock, [&] { return state->reached >= wanted; });
  });
  return 0;
}

int finished(DeviceEventHandle* event, bool* done) {
  const auto state = native(event)->state;
  const std::lock_guard lock(state->mutex);
  *done = state->reached >= state->recorded;
  return 0;
}

int await(DeviceEventHandle* event) {
  const auto state = native(event)->state;
  std::unique_lock lock(state->mutex);
  const std::uint64_t wanted = state->recorded;
  state->changed.wait(lock, [&] { return state->reached >= wanted; });
  return 0;
}

int milliseconds(DeviceEventHandle* begin, DeviceEventHandle* end, float* result) {
  *result = std::chrono::duration<float, std::milli>(native(end)->state->time -
                                                     native(begin)->state->time)
                .count();
  return 0;
}

}  // namespace

const core::DeviceRuntime& async_runtime() {
  static const core::DeviceRuntime runtime = [] {
    core::DeviceRuntime r = plain();
    r.name = "asynchronous stand-in";
    r.allocate = allocate;
    r.release = release;
    r.copy = copy;
    r.fill = fill;
    r.create_stream = create_stream;
    r.destroy_stream = destroy_stream;
    r.synchronize = synchronize;
    r.synchronize_device = synchronize_device;
    r.create_event = create_event;
    r.destroy_event = destroy_event;
    r.record = record;
    r.wait = wait;
    r.finished = finished;
    r.await = await;
    r.milliseconds = milliseconds;
    return r;
  }();
  return runtime;
}

core::DeviceRef async_device(int ordinal) {
  return core::open_device(async_runtime(), ordinal);
}

void enqueue(DeviceStreamHandle* stream, std::function<void()> work, Touched touched) {
  native(stream)->push(std::move(work), std::move(touched));
}

int live_streams() {
  return streams_alive;
}

int live_events() {
  return events_alive;
}

int early_frees() {
  return frees_too_early;
}

std::atomic<int>& longest_pause() {
  static std::atomic<int> longest{100};
  return longest;
}

}  // namespace lockstep::testing
