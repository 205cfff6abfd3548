#include "coordinator/attempts/stop_ladder.h"

#include <algorithm>
#include <chrono>

#include "comm/mpi/mpirun.h"

namespace lockstep::coordinator {

namespace {

constexpr std::int64_t kMillisecond = kSecond / 1000;
constexpr std::int64_t kAskAgain = kSecond;
constexpr std::int64_t kShortestTerminateTime = kSecond;
constexpr std::int64_t kLongestTerminateTime = 10 * kSecond;
constexpr std::int64_t kKillTime = 2 * kSecond;
constexpr std::int64_t kLauncherTime = 3 * kSecond;
constexpr std::int64_t kSweepAgain = 50 * kMillisecond;
constexpr std::int64_t kSweepTime = 60 * kSecond;
constexpr std::int64_t kStuckTime = std::chrono::nanoseconds(comm::kMpirunPatience).count();
constexpr std::int64_t kLastWords = 500 * kMillisecond;

}  // namespace

void StopLadder::enter(StopRung rung, std::int64_t now_ns) {
  rung_ = rung;
  entered_ns_ = now_ns;
  acted_ns_ = 0;
}

void StopLadder::request(const StopRequest& request, std::int64_t now_ns) {
  const StopRung asked = request.force ? StopRung::kKill : StopRung::kGraceful;
  if (!request_) {
    requested_ns_ = now_ns;
    request_ = request;
  } else {
    // The first cause stays; a shorter grace holds.
    const std::int64_t left = request_->grace_ns - (now_ns - requested_ns_);
    if (request.grace_ns < left) request_->grace_ns = now_ns - requested_ns_ + request.grace_ns;
    request_->force = request_->force || request.force;
  }
  if (asked > rung_) enter(asked, now_ns);
}

// Whether the next rung is due; enters it.
bool StopLadder::descend(const LadderFacts& facts, std::int64_t now_ns) {
  const std::int64_t here = now_ns - entered_ns_;
  const auto next = [&](StopRung rung) {
    enter(rung, now_ns);
    return true;
  };
  switch (rung_) {
    case StopRung::kNone:
      return facts.first_rank_end_ns != 0 && now_ns - facts.first_rank_end_ns >= kStuckTime &&
             next(StopRung::kKill);
    case StopRung::kGraceful:
      if (!facts.ranks_seen) return next(StopRung::kKill);
      if (!facts.ranks_alive) return next(StopRung::kEndLauncher);
      return here >= request_->grace_ns && next(StopRung::kTerminate);
    case StopRung::kTerminate:
      if (!facts.ranks_alive) return next(StopRung::kEndLauncher);
      return here >=
                 std::clamp(request_->grace_ns, kShortestTerminateTime, kLongestTerminateTime) &&
             next(StopRung::kKill);
    case StopRung::kKill:
      return (!facts.ranks_alive || here >= kKillTime) && next(StopRung::kEndLauncher);
    case StopRung::kEndLauncher:
      if (!facts.launcher_alive) return next(StopRung::kSweep);
      return here >= 2 * kLauncherTime && next(StopRung::kKillLauncher);
    case StopRung::kKillLauncher:
      return (!facts.launcher_alive || here >= kKillTime) && next(StopRung::kSweep);
    case StopRung::kSweep:
      return false;
  }
  return false;
}

std::optional<LadderAction> StopLadder::action(const LadderFacts& facts, std::int64_t now_ns) {
  const std::int64_t here = now_ns - entered_ns_;
  const bool first = acted_ns_ == 0;
  switch (rung_) {
    case StopRung::kNone:
      return std::nullopt;
    case StopRung::kGraceful:
      if (here < asks_first_ns_ || (!first && now_ns - acted_ns_ < kAskAgain)) return std::nullopt;
      return LadderAction::kAskRanks;
    case StopRung::kTerminate:
      return first ? std::optional(LadderAction::kTerminateRanks) : std::nullopt;
    case StopRung::kKill:
      return LadderAction::kKillRanks;
    case StopRung::kEndLauncher: {
      // Before any rank is there nobody can end it but mpirun itself.
      const bool due = !facts.ranks_seen || here >= kLauncherTime;
      return first && due ? std::optional(LadderAction::kTerminateLauncher) : std::nullopt;
    }
    case StopRung::kKillLauncher:
      return LadderAction::kKillLauncher;
    case StopRung::kSweep:
      if (!first && now_ns - acted_ns_ < kSweepAgain) return std::nullopt;
      return LadderAction::kKillEverything;
  }
  return std::nullopt;
}

std::optional<LadderAction> StopLadder::advance(const LadderFacts& facts, std::int64_t now_ns) {
  if (finished_ || gave_up_) return std::nullopt;
  if (!facts.launcher_alive && rung_ < StopRung::kEndLauncher) {
    if (launcher_gone_ns_ == 0) launcher_gone_ns_ = now_ns;
    if (facts.ranks_alive && now_ns - launcher_gone_ns_ < kLastWords) return std::nullopt;
    enter(StopRung::kSweep, now_ns);
  }
  while (descend(facts, now_ns)) {
  }
  if (rung_ == StopRung::kSweep) {
    finished_ = !facts.anything_alive;
    gave_up_ = !finished_ && now_ns - entered_ns_ >= kSweepTime;
    if (finished_ || gave_up_) return std::nullopt;
  }
  const std::optional<LadderAction> due = action(facts, now_ns);
  if (!due) return due;
  acted_ns_ = now_ns;
  if (forced_ns_ == 0 && *due != LadderAction::kAskRanks) forced_ns_ = now_ns;
  return due;
}

}  // namespace lockstep::coordinator
