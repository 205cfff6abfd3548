#include "launcher/bench/op_timer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <vector>

#include "core/device_runtime.h"

namespace lockstep::launcher {

namespace {

using ops::OpContext;

constexpr int kFewestRepetitions = 3;

// Time on the side where the ops of a context run.
class Stopwatch {
 public:
  explicit Stopwatch(OpContext& context) : context_(context) {
    if (context.device_ref().on_cpu()) return;
    first_.emplace(context.device_ref());
    last_.emplace(context.device_ref());
  }

  void begin() {
    if (first_) first_->record(context_.stream());
    begin_ = std::chrono::steady_clock::now();
  }

  double end() {
    if (last_) {
      last_->record(context_.stream());
      context_.stream().synchronize();
      return last_->seconds_since(*first_);
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  OpContext& context_;
  std::optional<core::DeviceEvent> first_;
  std::optional<core::DeviceEvent> last_;
  std::chrono::steady_clock::time_point begin_;
};

class Measurement {
 public:
  Measurement(OpContext& context, const TimingLimits& limits, const std::function<void()>& call,
              const std::function<void()>& restore)
      : on_device_(!context.device_ref().on_cpu()),
        limits_(limits),
        call_(call),
        restore_(restore),
        watch_(context) {}

  CallTime run() {
    warm_up();
    const int fitting =
        static_cast<int>(std::clamp(limits_.most_seconds / (once_ * calls_), 0.0, 1e6));
    const int repetitions =
        std::clamp(fitting, std::min(kFewestRepetitions, limits_.repetitions), limits_.repetitions);
    std::vector<double> seconds;
    for (int i = 0; i < repetitions; ++i)
      seconds.push_back(repetition());
    std::sort(seconds.begin(), seconds.end());
    return {seconds[seconds.size() / 2], seconds.front(), seconds.back(), repetitions};
  }

 private:
  // Libraries choose their algorithms and the op allocates its scratch in the first call; the
  // second tells how long one takes.
  void warm_up() {
    for (int i = 0; i < 2; ++i) {
      if (restore_) restore_();
      watch_.begin();
      call_();
      once_ = std::max(watch_.end(), 1e-7);
    }
    if (!restore_) {
      calls_ = static_cast<int>(std::clamp(std::ceil(limits_.least_seconds / once_), 1.0,
                                           static_cast<double>(TimingLimits::kMostCalls)));
    }
  }

  double repetition() {
    if (restore_) {
      restore_();
    } else if (on_device_) {
      call_();  // what the device is busy with while the host issues the rest
    }
    watch_.begin();
    for (int i = 0; i < calls_; ++i)
      call_();
    return watch_.end() / calls_;
  }

  bool on_device_;
  const TimingLimits& limits_;
  const std::function<void()>& call_;
  const std::function<void()>& restore_;
  Stopwatch watch_;
  double once_ = 0.0;
  int calls_ = 1;
};

}  // namespace

CallTime time_calls(OpContext& context, const TimingLimits& limits,
                    const std::function<void()>& call, const std::function<void()>& restore) {
  return Measurement(context, limits, call, restore).run();
}

}  // namespace lockstep::launcher
