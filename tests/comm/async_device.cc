#include "tests/comm/async_device.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "core/cuda/stand_in/machine.h"

namespace lockstep::comm::testing {

namespace {

using core::CopyKind;
using core::DeviceEventHandle;
using core::DeviceStreamHandle;

std::atomic<int> streams_alive{0};
std::atomic<int> events_alive{0};

class Stream {
 public:
  explicit Stream(int device) : device_(device), random_(std::random_device{}()) {
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

  void push(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
    ++given_;
    changed_.notify_all();
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
  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      pause();
      work();
      lock.lock();
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
  std::minstd_rand random_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
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

int create_stream(int device, DeviceStreamHandle** stream) {
  if (const int code = plain().use(device); code != 0) return code;
  *stream = reinterpret_cast<DeviceStreamHandle*>(new Stream(device));
  return 0;
}

int destroy_stream(DeviceStreamHandle* stream) {
  delete native(stream);
  return 0;
}

int synchronize(DeviceStreamHandle* stream) {
  return native(stream)->synchronize();
}

int copy(void* to, const void* from, std::size_t bytes, CopyKind kind, DeviceStreamHandle* stream) {
  Stream* s = native(stream);
  s->push([=] {
    const int code = plain().copy(to, from, bytes, kind, nullptr);
    if (code != 0) s->fail(code);
  });
  return 0;
}

int fill(void* memory, int byte, std::size_t bytes, DeviceStreamHandle* stream) {
  if (stream == nullptr) return plain().fill(memory, byte, bytes, nullptr);
  Stream* s = native(stream);
  s->push([=] {
    const int code = plain().fill(memory, byte, bytes, nullptr);
    if (code != 0) s->fail(code);
  });
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
    r.copy = copy;
    r.fill = fill;
    r.create_stream = create_stream;
    r.destroy_stream = destroy_stream;
    r.synchronize = synchronize;
    r.create_event = create_event;
    r.destroy_event = destroy_event;
    r.record = record;
    r.wait = wait;
    r.finished = finished;
    r.milliseconds = milliseconds;
    return r;
  }();
  return runtime;
}

core::DeviceRef async_device(int ordinal) {
  return core::open_device(async_runtime(), ordinal);
}

void enqueue(DeviceStreamHandle* stream, std::function<void()> work) {
  native(stream)->push(std::move(work));
}

int live_streams() {
  return streams_alive;
}

int live_events() {
  return events_alive;
}

std::atomic<int>& longest_pause() {
  static std::atomic<int> longest{100};
  return longest;
}

}  // namespace lockstep::comm::testing
