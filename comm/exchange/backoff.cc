#include "comm/exchange/backoff.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lockstep::comm {

namespace {

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

void Backoff::pause() {
  if (crowded_ && round_ < kSpins) round_ = kSpins;
  if (round_ < kSpins) {
    relax();
  } else if (round_ < kYields) {
    sched_yield();
  } else {
    const std::uint32_t micros = std::min<std::uint32_t>(20 + (round_ - kYields), 200);
    std::this_thread::sleep_for(std::chrono::microseconds(micros));
  }
  ++round_;
}

}  // namespace lockstep::comm
