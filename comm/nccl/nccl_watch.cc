// The watch over collectives on the device: see make_nccl_communicator.

#include <algorithm>
#include <utility>

#include "comm/flight_recorder.h"
#include "comm/nccl/nccl_communicator.h"
#include "core/check.h"

namespace lockstep::comm {

using core::ErrorKind;

namespace {

constexpr std::chrono::milliseconds kBetweenLooks{50};

}  // namespace

void NcclCommunicator::start_watch() {
  watch_ = std::thread([this] { watch(); });
}

void NcclCommunicator::stop_watch() {
  if (!watch_.joinable()) return;
  {
    const std::lock_guard lock(watch_mutex_);
    watch_stop_ = true;
  }
  watch_changed_.notify_one();
  watch_.join();
}

void NcclCommunicator::watch() {
  device_ref().runtime->use(device().index);  // what fails here fails in look() too, and is told
  std::unique_lock lock(watch_mutex_);
  while (!watch_changed_.wait_for(lock, kBetweenLooks, [this] { return watch_stop_; })) {
    lock.unlock();
    look();
    lock.lock();
  }
}

void NcclCommunicator::look() noexcept {
  RollCall& roll_call = roll_call_of_host();
  try {
    if (!roll_call.failed()) {
      look_at_device();
      look_at_flights();
    }
  } catch (const core::Error& error) {
    // Of the group, which is then marked already, or of this rank's device.
    roll_call.fail_with(error.kind(),
                        fmt::format("{}: {}", roll_call.describe_rank(rank()), error.what()));
  }
  if (roll_call.failed()) handle_->abort();
}

// What needs neither peers nor the host communicator, so that a thread which waits there holds
// nothing up.
void NcclCommunicator::look_at_device() {
  {
    const std::lock_guard lock(flights_mutex_);
    for (Flight& flight : flights_) {
      if (flight.begun_at) continue;
      if (!flight.begun.finished()) break;
      flight.begun_at = std::chrono::steady_clock::now();
      roll_call_of_host().note_begun(flight.sequence);
    }
  }
  if (handle_->state() != NcclState::kFailed) return;
  roll_call_of_host().fail_with(
      ErrorKind::kCommunication,
      fmt::format("{}: {} in {}", roll_call_of_host().describe_rank(rank()), handle_->what(),
                  first_flight()));
}

void NcclCommunicator::look_at_flights() {
  const std::unique_lock lock(host_mutex_, std::try_to_lock);
  if (!lock) return;  // that thread sees to it
  roll_call_of_host().look_for_dead_peers();
  complete_flights();
  if (auto stuck = find_stuck()) diagnose(*stuck);
}

// With the host communicator locked, for the recorder.
void NcclCommunicator::complete_flights() {
  const std::lock_guard lock(flights_mutex_);
  while (!flights_.empty() && flights_.front().issued && flights_.front().ended.finished()) {
    Flight& flight = flights_.front();
    if (!flight.begun_at) roll_call_of_host().note_begun(flight.sequence);
    if (recorder() != nullptr) recorder()->completed(flight.sequence);
    events_.give(std::move(flight.begun));
    events_.give(std::move(flight.ended));
    flights_.pop_front();
  }
  if (!flights_.empty() && recorder() != nullptr) recorder()->waiting();
}

std::string NcclCommunicator::first_flight() {
  const std::lock_guard lock(flights_mutex_);
  for (const Flight& flight : flights_)
    if (!flight.issued || !flight.ended.finished()) return flight.name;
  return "no collective";
}

std::optional<NcclCommunicator::Stuck> NcclCommunicator::find_stuck() {
  const std::lock_guard lock(flights_mutex_);
  if (flights_.empty() || !flights_.front().begun_at) return std::nullopt;
  const Flight& flight = flights_.front();  // that of a launch under way is timed there
  const auto waited = std::chrono::steady_clock::now() - *flight.begun_at;
  if (waited < timeout()) return std::nullopt;
  return Stuck{flight.sequence, flight.name, flight.announced,
               std::chrono::duration<double>(waited).count()};
}

// Names whoever has not come to it: a host, else a device, else nobody.
void NcclCommunicator::diagnose(Stuck& stuck) {
  RollCall& roll_call = roll_call_of_host();
  std::string text;
  for (const int late : roll_call.ranks_not_begun(stuck.sequence)) {
    text += fmt::format("{}{} has entered {}, but its device has not come to it for {:.3g} s",
                        text.empty() ? "" : ". ", roll_call.describe_rank(late), stuck.name,
                        stuck.seconds);
  }
  if (text.empty()) {
    text = fmt::format("all ranks have entered {}, but NCCL on {} has not finished it for {:.3g} s",
                       stuck.name, roll_call.describe_rank(rank()), stuck.seconds);
  }
  fail_late(stuck.announced, text);
}

// With the host communicator locked. text: of a collective that all ranks have entered.
void NcclCommunicator::fail_late(Work announced, const std::string& text) {
  announced.wait_output(std::chrono::steady_clock::now());  // names those that have not
  fail(text);
}

}  // namespace lockstep::comm
