#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/model/run.h"
#include "coordinator/model/run_change.h"

// What follows the end of an attempt. Pure; chance comes in as a number.
namespace lockstep::coordinator {

// Whether a failure of this category is tried again at all:
//   yes       RANK_SIGNAL, HOST_LOST, COORDINATOR, COMMUNICATION, STOPPED (unasked), PREEMPTED
//   twice     LAUNCH, in a row
//   once      HANG
//   by code   USER_EXIT: retry_policy.on_exit_codes
//   no        all others: the same would happen again
bool is_retryable(const ExitInfo& exit, const Run& run);

// base_delay x 2^earlier, at most max_delay, then +-25 %: jitter is in [-1, 1].
std::int64_t retry_delay_ns(const RetryPolicy& policy, int earlier, double jitter);

// Whether the attempt that has just ended did as the one before it: same category, rank and step,
// and no newer checkpoint. Only categories whose cause may lie in the run itself.
bool is_crash_loop(const RunRecord& record);

struct VerifiedCheckpoint {
  std::int64_t step = 0;
  std::string path;
};

// Adds the events from "all processes are gone" on: stopping (unless it was), checkpoint_committed
// if `checkpoint` (the newest verified one of the run) is not the one known, attempt_ended,
// slots_released, cleanup if there is something to say, and one of
//   terminal CANCELLED   intent CANCEL, whatever the ranks did
//   terminal SUCCEEDED   every rank exited 0
//   terminal FAILED      intent TIME_LIMIT; not retryable; crash loop; budget used up
//   paused               intent PAUSE, or run.time_limit of its configuration is over; with a
//                        verified checkpoint
//   queued               intent PREEMPT or HOST_DRAIN
//   retry_scheduled      else, also after a stop that nobody asked for
// A failure that the record already holds (a hang, ...) goes before the category of `exit`.
struct AttemptEnd {
  ExitInfo exit{};
  std::int64_t end_time_ns = 0;
  std::vector<std::string> stuck{};  // of a hang: who waits for whom
  std::string cleanup{};             // not empty: processes that could not be ended
};
void end_attempt(RunChange& change, const AttemptEnd& end,
                 const std::optional<VerifiedCheckpoint>& checkpoint, double jitter);

}  // namespace lockstep::coordinator
