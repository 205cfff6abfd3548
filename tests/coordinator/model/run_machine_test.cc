#include "coordinator/model/run_machine.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "core/error.h"
#include "tests/coordinator/model/run_fixture.h"

namespace lockstep::coordinator::testing {
namespace {

using nlohmann::json;

constexpr int kKinds = static_cast<int>(EventKind::kTerminal) + 1;

// A context that each kind accepts wherever its edge is legal.
json context_for(EventKind kind) {
  switch (kind) {
    case EventKind::kSubmitted:
      return {{"run", submitted_run()}};
    case EventKind::kDependencySatisfied:
      return {{"run", "other"}};
    case EventKind::kUpdated:
      return {{"priority", 7}};
    case EventKind::kAttemptCreated:
      return {{"number", 1},
              {"fence", 100},
              {"placements", json::array()},
              {"resume", "never"},
              {"agent_token_hash", ""}};
    case EventKind::kProgressMark:
      return {{"progress", Progress{}}};
    case EventKind::kCheckpointRequested:
      return {{"control_id", 1}};
    case EventKind::kCheckpointCommitted:
      return {{"step", 9}, {"path", "/c"}};
    case EventKind::kStopRequested:
      return {{"intent", "CANCEL"}, {"force", false}, {"grace_ns", 1}};
    case EventKind::kStopping:
      return {{"failure", nullptr}};
    case EventKind::kAttemptEnded:
      return {{"exit", exit_of(FailureCategory::kDone)}, {"end_time_ns", 1}};
    case EventKind::kSlotsReleased:
      return {{"number", 1}};
    case EventKind::kRetryScheduled:
      return {{"due_ns", 1}, {"delay_ns", 1}, {"category", "RANK_SIGNAL"}};
    case EventKind::kTerminal:
      return {{"state", "FAILED"}};
    default:
      return json::object();
  }
}

using Edges = std::map<EventKind, RunState>;

// Of a plain run in each state (not held, no stop intent, attempt not ended): every event that is
// legal, and where it leads.
const std::map<RunState, Edges>& edges() {
  using K = EventKind;
  using S = RunState;
  static const std::map<RunState, Edges> table = {
      {S::kWaiting,
       {{K::kDependencySatisfied, S::kWaiting},
        {K::kUpdated, S::kWaiting},
        {K::kHeld, S::kWaiting},
        {K::kQueued, S::kQueued},
        {K::kCoordinatorRestarted, S::kWaiting},
        {K::kCleanup, S::kWaiting},
        {K::kTerminal, S::kFailed}}},
      {S::kQueued,
       {{K::kUpdated, S::kQueued},
        {K::kHeld, S::kWaiting},
        {K::kAttemptCreated, S::kStarting},
        {K::kCoordinatorRestarted, S::kQueued},
        {K::kCleanup, S::kQueued},
        {K::kTerminal, S::kFailed}}},
      {S::kStarting,
       {{K::kUpdated, S::kStarting},
        {K::kLaunched, S::kStarting},
        {K::kRanksReady, S::kRunning},
        {K::kStopRequested, S::kStarting},
        {K::kStopping, S::kStopping},
        {K::kSuspect, S::kStarting},
        {K::kRecovered, S::kStarting},
        {K::kCoordinatorRestarted, S::kStarting},
        {K::kCleanup, S::kStarting}}},
      {S::kRunning,
       {{K::kUpdated, S::kRunning},
        {K::kProgressMark, S::kRunning},
        {K::kCheckpointRequested, S::kRunning},
        {K::kCheckpointCommitted, S::kRunning},
        {K::kCheckpointFailed, S::kRunning},
        {K::kStopRequested, S::kRunning},
        {K::kControlAcked, S::kRunning},
        {K::kStopping, S::kStopping},
        {K::kSuspect, S::kRunning},
        {K::kRecovered, S::kRunning},
        {K::kCoordinatorRestarted, S::kRunning},
        {K::kCleanup, S::kRunning}}},
      {S::kStopping,
       {{K::kUpdated, S::kStopping},
        {K::kProgressMark, S::kStopping},
        {K::kCheckpointCommitted, S::kStopping},
        {K::kCheckpointFailed, S::kStopping},
        {K::kStopRequested, S::kStopping},
        {K::kControlAcked, S::kStopping},
        {K::kAttemptEnded, S::kStopping},
        {K::kSuspect, S::kStopping},
        {K::kRecovered, S::kStopping},
        {K::kCoordinatorRestarted, S::kStopping},
        {K::kCleanup, S::kStopping}}},
      {S::kBackoff,
       {{K::kUpdated, S::kBackoff},
        {K::kHeld, S::kWaiting},
        {K::kQueued, S::kQueued},
        {K::kCoordinatorRestarted, S::kBackoff},
        {K::kCleanup, S::kBackoff},
        {K::kTerminal, S::kFailed}}},
      {S::kPaused,
       {{K::kUpdated, S::kPaused},
        {K::kResumed, S::kQueued},
        {K::kCoordinatorRestarted, S::kPaused},
        {K::kCleanup, S::kPaused},
        {K::kTerminal, S::kFailed}}},
      {S::kSucceeded, {{K::kCleanup, S::kSucceeded}}},
      {S::kFailed, {{K::kCleanup, S::kFailed}}},
      {S::kCancelled, {{K::kCleanup, S::kCancelled}}},
  };
  return table;
}

TEST(RunMachine, EveryEventInEveryStateIsItsEdgeOrRefused) {
  for (const RunState state : all_states()) {
    for (int i = 0; i < kKinds; ++i) {
      const auto kind = static_cast<EventKind>(i);
      SCOPED_TRACE(std::string(to_string(state)) + " + " + to_string(kind));
      RunChange change = run_in(state);
      ASSERT_EQ(change.run().state, state);
      const RunRecord before = change.record();
      const Edges& legal = edges().at(state);
      const auto edge = legal.find(kind);
      if (edge == legal.end()) {
        EXPECT_THROW(change.add(kind, "test", context_for(kind)), core::Error);
        EXPECT_EQ(change.record(), before);
      } else {
        change.add(kind, "test", context_for(kind));
        EXPECT_EQ(change.run().state, edge->second);
        EXPECT_EQ(change.run().run_sequence, before.run.run_sequence + 1);
      }
    }
  }
}

// STOPPING has more ways out once its attempt has ended; which depends on the intent.
TEST(RunMachine, AnEndedAttemptLeavesStoppingByItsIntent) {
  for (int intent = 0; intent <= static_cast<int>(StopIntent::kCancel); ++intent) {
    const auto wanted = static_cast<StopIntent>(intent);
    SCOPED_TRACE(to_string(wanted));
    RunChange ended = run_in(RunState::kStopping);
    if (wanted != StopIntent::kNone) add_stop_request(ended, wanted);
    EXPECT_THROW(add_terminal(ended, RunState::kSucceeded), core::Error);
    EXPECT_THROW(ended.add(EventKind::kPaused, "test"), core::Error);
    add_ended(ended, exit_of(FailureCategory::kDone));
    EXPECT_THROW(add_ended(ended, exit_of(FailureCategory::kDone)), core::Error);
    for (const RunState state : {RunState::kSucceeded, RunState::kFailed, RunState::kCancelled}) {
      RunChange change = ended;
      add_terminal(change, state);
      EXPECT_EQ(change.run().state, state);
    }
    RunChange paused = ended;
    paused.add(EventKind::kPaused, "test");
    EXPECT_EQ(paused.run().state, RunState::kPaused);
    const bool frees = wanted == StopIntent::kPreempt || wanted == StopIntent::kHostDrain;
    RunChange queued = ended;
    if (frees) {
      queued.add(EventKind::kQueued, "test");
      EXPECT_EQ(queued.run().state, RunState::kQueued);
      EXPECT_EQ(queued.run().stop_intent, StopIntent::kNone);
      EXPECT_EQ(queued.run().restart_count, 0);
    } else {
      EXPECT_THROW(queued.add(EventKind::kQueued, "test"), core::Error);
    }
  }
}

TEST(RunMachine, F12_PausedNeedsAVerifiedCheckpoint) {
  RunChange change = new_run(submitted_run());
  bring_to_running(change);
  add_stop_request(change, StopIntent::kPause);
  add_stopping(change);
  add_ended(change, exit_of(FailureCategory::kStopped));
  EXPECT_THROW(change.add(EventKind::kPaused, "test"), core::Error);
}

TEST(RunMachine, AFailedCheckpointGivesUpThePauseButNotACancel) {
  for (const StopIntent intent : {StopIntent::kPreempt, StopIntent::kHostDrain, StopIntent::kPause,
                                  StopIntent::kTimeLimit, StopIntent::kCancel}) {
    RunChange change = run_in(RunState::kRunning);
    add_stop_request(change, intent);
    change.add(EventKind::kCheckpointFailed, "test", {{"message", "disk full"}});
    const bool kept = intent > StopIntent::kPause;
    EXPECT_EQ(change.run().stop_intent, kept ? intent : StopIntent::kNone) << to_string(intent);
    EXPECT_EQ(change.run().state, RunState::kRunning);
  }
}

TEST(RunMachine, StopIntentsOnlyEscalate) {
  for (int from = 1; from <= 5; ++from) {
    for (int to = 1; to <= 5; ++to) {
      for (const bool force : {false, true}) {
        RunChange change = run_in(RunState::kRunning);
        add_stop_request(change, static_cast<StopIntent>(from));
        if (to > from || (to == from && force)) {
          add_stop_request(change, static_cast<StopIntent>(to), force);
          EXPECT_EQ(change.run().stop_intent, static_cast<StopIntent>(to));
        } else {
          EXPECT_THROW(add_stop_request(change, static_cast<StopIntent>(to), force), core::Error);
        }
      }
    }
  }
}

TEST(RunMachine, HeldRunsAndThoseThatWaitForOthersAreNotQueued) {
  RunChange held = run_in(RunState::kWaiting);
  held.add(EventKind::kHeld, "test");
  EXPECT_THROW(held.add(EventKind::kQueued, "test"), core::Error);
  held.add(EventKind::kReleased, "test");
  EXPECT_THROW(held.add(EventKind::kReleased, "test"), core::Error);
  held.add(EventKind::kQueued, "test");

  auto run = submitted_run();
  run.after = run.after_pending = {"a", "b"};
  RunChange waiting = new_run(run);
  waiting.add(EventKind::kDependencySatisfied, "test", {{"run", "a"}});
  EXPECT_THROW(waiting.add(EventKind::kQueued, "test"), core::Error);
  waiting.add(EventKind::kDependencySatisfied, "test", {{"run", "b"}});
  waiting.add(EventKind::kQueued, "test");
  EXPECT_EQ(waiting.run().state, RunState::kQueued);
}

TEST(RunMachine, AGapADoubleAndAForeignEventAreRefused) {
  const RunChange change = run_in(RunState::kRunning);
  RunRecord record = change.record();
  Event event = change.events().back();
  EXPECT_THROW(apply(record, event), core::Error);  // again
  event.run_sequence += 2;
  EXPECT_THROW(apply(record, event), core::Error);  // gap
  event.run_sequence -= 1;
  event.run = "someone-else";
  event.kind = EventKind::kUpdated;
  event.context = json::object();
  EXPECT_THROW(apply(record, event), core::Error);
  EXPECT_EQ(record, change.record());
}

TEST(RunMachine, AttemptsAreNumberedWithoutGapsAndFencesRise) {
  RunChange change = run_in(RunState::kBackoff);
  change.add(EventKind::kQueued, "test");
  json context = context_for(EventKind::kAttemptCreated);
  context["number"] = 3;
  EXPECT_THROW(change.add(EventKind::kAttemptCreated, "test", context), core::Error);
  context["number"] = 2;
  context["fence"] = 11;  // that of the first
  EXPECT_THROW(change.add(EventKind::kAttemptCreated, "test", context), core::Error);
  context["fence"] = 12;
  change.add(EventKind::kAttemptCreated, "test", context);
  EXPECT_EQ(change.run().current_attempt, 2);
}

// Random legal walks: the record is always the fold of its events, read back from their texts, and
// once terminal the state stays.
TEST(RunMachine, I1_I4_I6_HoldOverRandomWalks) {
  std::mt19937_64 random(7);
  std::set<RunState> seen;
  for (int walk = 0; walk < 400; ++walk) {
    RunChange change = new_run(submitted_run());
    for (int step = 0; step < 60; ++step) {
      const auto kind = static_cast<EventKind>(random() % kKinds);
      json context = context_for(kind);
      if (kind == EventKind::kAttemptCreated) {
        context["number"] = change.run().current_attempt + 1;
        context["fence"] = 100 + step;
      }
      if (kind == EventKind::kStopRequested) {
        context["intent"] = to_string(static_cast<StopIntent>(1 + random() % 5));
      }
      if (kind == EventKind::kTerminal && random() % 8 != 0) continue;
      const RunState before = change.run().state;
      try {
        change.add(kind, "test", context);
      } catch (const core::Error&) {
        continue;
      }
      seen.insert(change.run().state);
      if (is_terminal(before)) {
        EXPECT_EQ(change.run().state, before);
      }
    }
    RunRecord replayed;
    int retries = 0;
    for (const Event& event : change.events()) {
      Event read = event;
      read.context = json::parse(canonical_text(event.context));
      apply(replayed, read);
      retries += event.kind == EventKind::kRetryScheduled ? 1 : 0;
    }
    ASSERT_EQ(canonical_text(replayed), canonical_text(change.record()));
    ASSERT_EQ(change.run().restart_count, retries);
    ASSERT_EQ(json(replayed).get<RunRecord>(), replayed);
  }
  EXPECT_GE(seen.size(), 8U);
}

}  // namespace
}  // namespace lockstep::coordinator::testing
