#pragma once

#include <cstdint>
#include <optional>

#include "coordinator/attempts/attempt_host.h"

namespace lockstep::coordinator {

// What is alive of an attempt.
struct LadderFacts {
  bool ranks_seen = false;  // at least one rank's process was there
  bool ranks_alive = false;
  bool launcher_alive = false;
  bool anything_alive = false;         // below the supervisor or with the attempt's tag
  std::int64_t first_rank_end_ns = 0;  // 0: none has ended
};

enum class LadderAction : std::uint8_t {
  kAskRanks,        // SIGUSR1 to rank 0: save and stop at the next step boundary
  kTerminateRanks,  // SIGTERM, and SIGCONT so that a stopped one gets it
  kKillRanks,
  kTerminateLauncher,
  kKillLauncher,
  kKillEverything,
};

// Decides when to send what until nothing is left. Pure: time and facts are given.
//
//   graceful  asks every second, until the grace is over         (not when no rank has started yet)
//   terminate as long as the grace, but 1 s to 10 s
//   kill      until no rank is left, at most 2 s
//   launcher  ends by itself within 3 s, else SIGINT, 3 s, SIGKILL
//   sweep     until nothing is left, at most 60 s
//
// A rung that has nothing to do is passed over. A launcher that ended by itself begins at the sweep
// of what it left, after half a second in which ranks may write how they ended. One that lives on
// for 10 s when a rank has ended is stuck (a rank that died in MPI_Init leaves mpirun 4.1 so): the
// ladder begins at kill.
class StopLadder {
 public:
  // asks_first_ns: what asks rank 0 by another way gets this long before it is asked by a signal.
  explicit StopLadder(std::int64_t asks_first_ns) : asks_first_ns_(asks_first_ns) {}

  void request(const StopRequest& request, std::int64_t now_ns);

  // What to do now. To be called whenever something ended, and at least every 100 ms.
  std::optional<LadderAction> advance(const LadderFacts& facts, std::int64_t now_ns);

  StopRung rung() const { return rung_; }
  bool requested() const { return request_.has_value(); }
  const std::optional<StopRequest>& request() const { return request_; }
  std::int64_t requested_ns() const { return requested_ns_; }
  // When the first signal went out that ends a rank; 0: none has.
  std::int64_t forced_ns() const { return forced_ns_; }
  bool finished() const { return finished_; }  // nothing is left
  bool gave_up() const { return gave_up_; }    // something is left that cannot be ended

 private:
  void enter(StopRung rung, std::int64_t now_ns);
  bool descend(const LadderFacts& facts, std::int64_t now_ns);
  std::optional<LadderAction> action(const LadderFacts& facts, std::int64_t now_ns);

  const std::int64_t asks_first_ns_;
  std::optional<StopRequest> request_;
  std::int64_t requested_ns_ = 0;
  std::int64_t forced_ns_ = 0;
  StopRung rung_ = StopRung::kNone;
  std::int64_t entered_ns_ = 0;
  std::int64_t acted_ns_ = 0;  // on this rung; 0: not yet
  std::int64_t launcher_gone_ns_ = 0;
  bool finished_ = false;
  bool gave_up_ = false;
};

}  // namespace lockstep::coordinator
