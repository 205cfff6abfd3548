#pragma once

#include <functional>

#include "ops/op_context.h"

namespace lockstep::launcher {

// How long one thing is measured.
struct TimingLimits {
  int repetitions = 10;         // of which the median counts; fewer, but 3, when time runs out
  double least_seconds = 2e-3;  // of one repetition: several calls in a row, up to kMostCalls
  double most_seconds = 2.0;    // of all of them together

  static constexpr int kMostCalls = 100;
};

struct CallTime {
  double seconds = 0.0;          // of one call: the median of the repetitions
  double fastest_seconds = 0.0;  // of one call, in the fastest repetition
  double slowest_seconds = 0.0;
  int repetitions = 0;
};

// Measures `call`, which issues one call of an op of `context`: by a clock on the CPU, by events
// around it on a device, which has work before the first event, so that launching does not show
// while the device is slower than that. Calls before the measurement warm up. `restore`, where
// given, comes before every call and is not measured.
CallTime time_calls(ops::OpContext& context, const TimingLimits& limits,
                    const std::function<void()>& call, const std::function<void()>& restore = {});

}  // namespace lockstep::launcher
