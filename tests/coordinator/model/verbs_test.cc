#include "coordinator/model/verbs.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/coordinator/model/run_fixture.h"

namespace lockstep::coordinator::testing {
namespace {

constexpr auto A = VerbAnswer::kAllowed;
constexpr auto H = VerbAnswer::kHolds;
constexpr auto R = VerbAnswer::kRefused;

TEST(Verbs, EveryVerbInEveryState) {
  // cancel, pause, resume, checkpoint, update, retry; of a run that is not held, without intent.
  const std::map<RunState, std::vector<VerbAnswer>> table = {
      {RunState::kWaiting, {A, A, H, R, A, R}},  {RunState::kQueued, {A, A, H, R, A, R}},
      {RunState::kStarting, {A, A, H, R, A, R}}, {RunState::kRunning, {A, A, H, A, A, R}},
      {RunState::kStopping, {A, R, R, R, A, R}}, {RunState::kBackoff, {A, A, H, R, A, R}},
      {RunState::kPaused, {A, H, A, R, A, R}},   {RunState::kSucceeded, {H, R, R, R, R, A}},
      {RunState::kFailed, {H, R, R, R, R, A}},   {RunState::kCancelled, {H, R, R, R, R, A}},
  };
  for (const RunState state : all_states()) {
    const RunChange change = run_in(state);
    for (int verb = 0; verb < 6; ++verb) {
      EXPECT_EQ(check_verb(change.run(), static_cast<Verb>(verb)),
                table.at(state)[static_cast<std::size_t>(verb)])
          << to_string(state) << " " << to_string(static_cast<Verb>(verb));
    }
  }
}

TEST(Verbs, WhatAnIntentChanges) {
  struct Row {
    StopIntent intent;
    RunState state;
    VerbAnswer cancel, pause, resume, checkpoint;
  };
  const RunState running = RunState::kRunning;
  const RunState stopping = RunState::kStopping;
  for (const Row& row : {
           Row{StopIntent::kPreempt, running, A, A, R, R},
           Row{StopIntent::kHostDrain, running, A, A, R, R},
           Row{StopIntent::kPause, running, A, H, R, R},
           Row{StopIntent::kTimeLimit, running, A, R, R, R},
           Row{StopIntent::kCancel, running, H, R, R, R},
           Row{StopIntent::kPreempt, stopping, A, A, R, R},
           Row{StopIntent::kHostDrain, stopping, A, A, R, R},
           Row{StopIntent::kPause, stopping, A, H, R, R},
           Row{StopIntent::kTimeLimit, stopping, A, R, R, R},
           Row{StopIntent::kCancel, stopping, H, R, R, R},
       }) {
    RunChange change = run_in(row.state);
    add_stop_request(change, row.intent);
    SCOPED_TRACE(std::string(to_string(row.state)) + " " + to_string(row.intent));
    EXPECT_EQ(check_verb(change.run(), Verb::kCancel), row.cancel);
    EXPECT_EQ(check_verb(change.run(), Verb::kPause), row.pause);
    EXPECT_EQ(check_verb(change.run(), Verb::kResume), row.resume);
    EXPECT_EQ(check_verb(change.run(), Verb::kCheckpoint), row.checkpoint);
    EXPECT_EQ(check_verb(change.run(), Verb::kRetry), R);
  }
}

TEST(Verbs, ForceIsMoreThanACancel) {
  RunChange change = run_in(RunState::kRunning);
  add_stop_request(change, StopIntent::kCancel);
  EXPECT_EQ(check_cancel(change.run(), false), H);
  EXPECT_EQ(check_cancel(change.run(), true), A);
  add_stop_request(change, StopIntent::kCancel, true);
  EXPECT_EQ(check_cancel(change.run(), true), H);
}

TEST(Verbs, HeldRunsAreReleasedByResume) {
  RunChange change = run_in(RunState::kQueued);
  change.add(EventKind::kHeld, "local");
  EXPECT_EQ(check_verb(change.run(), Verb::kPause), H);
  EXPECT_EQ(check_verb(change.run(), Verb::kResume), A);
}

TEST(Verbs, ARefusalNamesTheStateAndWhatIsAllowed) {
  const RunChange change = run_in(RunState::kFailed);
  const std::string text = refusal(change.run(), Verb::kPause);
  EXPECT_NE(text.find("FAILED"), std::string::npos) << text;
  EXPECT_NE(text.find("cancel, retry"), std::string::npos) << text;
}

}  // namespace
}  // namespace lockstep::coordinator::testing
