// How a communicator fails: the first cause, with the rank, for everyone.

#include <algorithm>
#include <chrono>

#include "comm/exchange/exchange_communicator.h"
#include "comm/flight_recorder.h"
#include "core/check.h"

namespace lockstep::comm {

using core::ErrorKind;

namespace {

constexpr std::size_t kNamedRanks = 4;

}  // namespace

void ExchangeCommunicator::do_abort(ErrorKind kind, std::string_view reason) noexcept {
  try {
    control_.failure().set(kind, fmt::format("{} failed: {}", describe_rank(rank()), reason));
  } catch (...) {
    control_.failure().set(kind, reason);
  }
  // Other threads may not send messages; the owner does so in its next call.
  if (std::this_thread::get_id() != owner_) return;
  try {
    raise_failure();
  } catch (const core::Error&) {
    return;  // this is the failure just recorded
  }
}

void ExchangeCommunicator::raise_failure() {
  Failure& failure = control_.failure();
  if (remote_ != nullptr && !failure.is_set()) {
    if (const auto error = remote_->poll_failure()) {
      spread_ = failure.set(error->kind(), error->what());
    }
  }
  if (!failure.is_set()) return;
  if (remote_ != nullptr && !spread_) {
    spread_ = true;
    remote_->spread_failure(static_cast<ErrorKind>(failure.kind), failure.text);
  }
  failure.raise();
}

void ExchangeCommunicator::fail(ErrorKind kind, const std::string& text) {
  control_.failure().set(kind, text);
  while (!control_.failure().is_set()) {  // another rank is writing its own cause
    Backoff(true).pause();
  }
  raise_failure();
  LOCKSTEP_CHECK(false, "a failure was not raised: {}", text);
  throw core::Error(kind, text);
}

std::string ExchangeCommunicator::last_completed(int rank) const {
  const int peer = group_.node_rank[static_cast<std::size_t>(rank)];
  if (peer < 0) {
    const std::uint64_t posted = remote_->posted(rank);
    return posted == 0 ? "it has entered nothing yet"
                       : fmt::format("it last entered operation {} of this group", posted);
  }
  const RankSlot& slot = control_.slot(peer);
  const std::uint64_t completed = slot.completed.load(std::memory_order_acquire);
  if (completed == 0) return "it has completed nothing yet";
  return "it last completed " + slot.entry(completed - 1).name();
}

std::vector<int> ExchangeCommunicator::ranks_not_entered(std::uint64_t index) const {
  std::vector<int> ranks;
  for (int r = 0; r < world_size(); ++r) {
    if (record_of(r, index) == nullptr) ranks.push_back(r);
  }
  return ranks;
}

// Whom this rank waits for, and in `what` the verb phrase that says for what.
std::vector<int> ExchangeCommunicator::ranks_holding_up(Condition condition, std::uint64_t id,
                                                        std::string& what) {
  if (read_ <= id) {
    Operation& op = at(read_);
    what = "has not entered " + op.record.name();
    std::vector<int> ranks = ranks_not_entered(op.index);
    if (!ranks.empty() || !op.posted) return ranks;
    what = "has not sent all of its data for " + op.record.name();
    for (int r = 0; r < world_size(); ++r) {
      const bool wanted = op.chunk_length(r, rank(), op.read_chunks) > 0;
      if (wanted && find_source(op, r, op.read_chunks) == nullptr) ranks.push_back(r);
    }
    return ranks;
  }
  what = "has not read this rank's data of " + own_slot().entry(id).name();
  std::vector<int> ranks;
  for (int r = 0; condition == Condition::kInput && r < world_size(); ++r) {
    const int peer = group_.node_rank[static_cast<std::size_t>(r)];
    if (peer >= 0 && control_.slot(peer).completed.load(std::memory_order_acquire) <= id) {
      ranks.push_back(r);
    }
  }
  return ranks;
}

void ExchangeCommunicator::fail_for_death(int node_rank, const std::string& noticed) {
  for (int r = 0; r < world_size(); ++r) {
    if (group_.node_rank[static_cast<std::size_t>(r)] != node_rank) continue;
    fail(ErrorKind::kCommunication, fmt::format("{} has died; {}; {} noticed {}", describe_rank(r),
                                                last_completed(r), describe_rank(rank()), noticed));
  }
  LOCKSTEP_CHECK(false, "no rank is number {} of its node", node_rank);
  throw core::Error(ErrorKind::kInternal, noticed);
}

void ExchangeCommunicator::check_peers(Condition condition, std::uint64_t id, Deadline begin,
                                       Deadline deadline) {
  if (recorder() != nullptr) recorder()->waiting();
  std::string what;
  std::vector<int> late;
  const auto find_late = [&] { late = ranks_holding_up(condition, id, what); };

  if (const auto dead = node_->find_dead_peer()) {
    find_late();
    fail_for_death(*dead, fmt::format("while it waited (a peer {})", what));
  }
  for (int r = 0; r < world_size(); ++r) {
    const int peer = group_.node_rank[static_cast<std::size_t>(r)];
    if (peer < 0) continue;
    if (control_.slot(peer).state.load(std::memory_order_acquire) != RankState::kLeft) continue;
    find_late();
    if (std::find(late.begin(), late.end(), r) == late.end()) continue;
    fail(ErrorKind::kCommunication,
         fmt::format("{} has left, but {}; {}", describe_rank(r), what, last_completed(r)));
  }
  const Deadline now = std::chrono::steady_clock::now();
  if (now < deadline) return;

  find_late();
  // Peers of an announced collective have been waited for since it was entered.
  const bool announced = read_ <= id && at(read_).announced && at(read_).posted;
  const Deadline since = announced ? std::min(begin, at(read_).posted_at) : begin;
  const double seconds = std::chrono::duration<double>(now - since).count();
  std::string text;
  for (std::size_t i = 0; i < std::min(late.size(), kNamedRanks); ++i) {
    text += fmt::format("{}{} {} for {:.3g} s; {}", i == 0 ? "" : ". ", describe_rank(late[i]),
                        what, seconds, last_completed(late[i]));
  }
  if (late.size() > kNamedRanks) {
    text += fmt::format(". {} more ranks likewise", late.size() - kNamedRanks);
  }
  if (late.empty()) {
    text =
        fmt::format("{} did not finish within {:.3g} s: {}", describe_rank(rank()), seconds, what);
  }
  fail(ErrorKind::kCommunication, text);
}

}  // namespace lockstep::comm
