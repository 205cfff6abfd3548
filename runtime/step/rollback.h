#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// Going back to an earlier checkpoint and leaving out the steps that broke the run
// (health.on_divergence: rollback). Pure arithmetic on step numbers, the same on every rank, and
// the file that keeps it: OUTPUT/rollbacks.json (version 1),
//
//   {"version":1,"rollbacks":[{"to":100,"first":137,"last":137}]}
//
// replaced before anything of the run goes back. It only grows; a checkpoint's manifest holds the
// list as it was when the checkpoint was taken.
namespace lockstep::runtime {

struct Rollback {
  std::int64_t to = 0;     // the step of the checkpoint that the run went back to
  std::int64_t first = 0;  // the steps left out, first ... last (attempts, from 1): attempted again
  std::int64_t last = 0;   // without computing, and not applied; `last` broke the run

  bool operator==(const Rollback&) const = default;
};
using Rollbacks = std::vector<Rollback>;  // oldest first

bool is_left_out(const Rollbacks& rollbacks, std::int64_t step);

// Rollbacks to one and the same checkpoint; a newer healthy one is a new start.
inline constexpr std::int64_t kMostRollbacksToOneCheckpoint = 8;

// What to leave out after `broken` broke a run whose newest healthy checkpoint is of step `to`.
//
// Only what is known to have broken it: the step itself. If steps are left out right before it,
// that was not enough. One such step joins the range, in case the bad data goes on. From the third
// step in succession on the weights must have been spoilt before it, by steps that looked healthy:
// the range then also takes in as many steps before it as it has, so that it doubles each time, but
// never steps that the checkpoint holds.
//
// spikes: how many steps in a row up to `broken` leapt, all left out. When they are over, nothing
// else need be; spoilt: when they stay, the weights have been spoilt before, as above.
Rollback plan_rollback(const Rollbacks& before, std::int64_t to, std::int64_t broken,
                       std::int64_t spikes = 0, bool spoilt = false);

// Why `next` goes too far, or empty: more than kMostRollbacksToOneCheckpoint, or
// `max_consecutive_skips` steps in succession left out.
std::string refusal(const Rollbacks& before, const Rollback& next,
                    std::int64_t max_consecutive_skips);

// "137", "140 to 146"; "12, 14 to 15" for a list, in ascending order, neighbours joined.
std::string describe_left_out(const Rollbacks& rollbacks);

// The same as pairs of first and last: "[[12,12],[14,15]]".
std::string left_out_json(const Rollbacks& rollbacks);

// Whether a checkpoint of `step`, taken when `known` rollbacks had been made, belongs to a past
// that a later one gave up.
bool is_given_up(const Rollbacks& rollbacks, std::size_t known, std::int64_t step);

// "[{"to":100,"first":137,"last":137}]" and back; throws nlohmann::json::exception, or
// Error(kData) when the numbers make no sense.
std::string rollbacks_text(const Rollbacks& rollbacks);
Rollbacks parse_rollbacks(const std::string& text);

// The file of a run; none: no rollbacks. Throw Error(kData) naming it.
Rollbacks read_rollbacks(const std::string& output);
void write_rollbacks(const std::string& output, const Rollbacks& rollbacks);
void remove_rollbacks(const std::string& output);

}  // namespace lockstep::runtime
