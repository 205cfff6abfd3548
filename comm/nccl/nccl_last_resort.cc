#include "comm/nccl/nccl_last_resort.h"

#include <fmt/format.h>

#include "core/error.h"

namespace lockstep::comm {

namespace {

constexpr std::chrono::milliseconds kBetweenLooks{100};

}  // namespace

NcclLastResort::NcclLastResort(core::DeviceRef device, const core::DeviceStream& stream,
                               const RollCall& roll_call, const NcclOptions& options)
    : device_(device), stream_(stream), roll_call_(roll_call), options_(options) {
  if (options_.last_resort) thread_ = std::thread([this] { watch(); });
}

NcclLastResort::~NcclLastResort() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void NcclLastResort::expect_free() {
  const std::lock_guard lock(mutex_);
  expected_free_ = true;
}

void NcclLastResort::watch() {
  device_.runtime->use(device_.device.index);
  std::optional<std::chrono::steady_clock::time_point> since;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait_for(lock, kBetweenLooks);
    const bool expected = expected_free_ || roll_call_.failed();
    if (!expected && stop_) return;
    if (!expected) continue;
    const auto now = std::chrono::steady_clock::now();
    if (is_free()) {
      if (stop_) return;
      since.reset();  // but a launch that was under way may still come
      end_.reset();
      continue;
    }
    if (!since) since = now;
    if (now - *since >= options_.patience) break;
  }
  lock.unlock();
  const std::string cause = roll_call_.failure();
  options_.last_resort(
      fmt::format("{}{} has been in a collective for {:.3g} s since, and NCCL cannot end it",
                  cause.empty() ? "" : cause + ". ", core::to_string(device_.device),
                  std::chrono::duration<double>(options_.patience).count()));
}

// A device that has broken down holds nobody up either.
bool NcclLastResort::is_free() {
  try {
    if (!end_) {
      end_.emplace(device_);
      end_->record(stream_);
    }
    return end_->finished();
  } catch (const core::Error&) {
    return true;
  }
}

}  // namespace lockstep::comm
