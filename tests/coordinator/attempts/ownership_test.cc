#include <gtest/gtest.h>
#include <signal.h>

#include "core/error.h"
#include "tests/coordinator/attempts/attempt_test.h"
#include "tests/support/run_command.h"

// F4: nothing is ever signalled because of what a file says.
namespace lockstep::coordinator {
namespace {

using nlohmann::json;

class OwnershipTest : public AttemptTest {
 protected:
  // A run that is over but for its record, as a coordinator finds it after it was away.
  LaunchSpec abandoned() {
    const LaunchSpec run = launch(spec(1, {}));
    const AttemptStatus status = wait_for_steps(run);
    auto supervisor = ProcessHandle::open(static_cast<pid_t>(status.supervisor_pid));
    supervisor->send(SIGKILL);
    for (int i = 0; i < 1000 && !supervisor->ended(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return run;
  }
  void forge(const LaunchSpec& run, const SupervisorIdentity& identity, std::int64_t rank_pid) {
    state_.write(relative(run, "supervisor.json"), to_text(identity));
    AttemptStatus state;
    state.phase = AttemptPhase::kRunning;
    state.supervisor_pid = identity.pid;
    state.ranks = {{0, rank_pid, true}};
    state.start_time_ns = unix_now_ns();
    state_.write(relative(run, "state.json"), to_text(to_json(state)));
  }
  std::string relative(const LaunchSpec& run, const std::string& name) const {
    return directory(run).substr(state_.path().string().size() + 1) + "/" + name;
  }
};

TEST_F(OwnershipTest, F4_ForgedRecordsOfForeignProcessesChangeNothing) {
  const lockstep::testing::Command foreign({"sleep", "300"});
  const auto stat = read_stat(foreign.pid());
  ASSERT_TRUE(stat);
  const std::string boot = boot_id();
  const std::string other_boot = "00000000-0000-0000-0000-000000000000";
  // A live foreign process; the same with another start time (a pid that was used again); one of
  // another start of the machine.
  for (const SupervisorIdentity& identity :
       {SupervisorIdentity{boot, foreign.pid(), stat->start_ticks},
        SupervisorIdentity{boot, foreign.pid(), stat->start_ticks - 5},
        SupervisorIdentity{other_boot, foreign.pid(), stat->start_ticks}}) {
    const LaunchSpec run = abandoned();
    forge(run, identity, foreign.pid());
    SupervisedAttempts after_restart({state_.path().string(), LOCKSTEP_FAKE_RANK});
    StopRequest force;
    force.force = true;
    after_restart.stop(run.attempt, force);
    const AttemptStatus end = wait_for_end(run);
    EXPECT_EQ(end.exit.category, identity.boot_id == boot ? FailureCategory::kCoordinator
                                                          : FailureCategory::kHostLost);
    EXPECT_TRUE(ProcessHandle::open(foreign.pid())) << "a process that is not ours was ended";
  }
}

TEST_F(OwnershipTest, F4_ALiveSupervisorIsKnownByItsLockNotByItsRecord) {
  const lockstep::testing::Command foreign({"sleep", "300"});
  const LaunchSpec run = launch(spec(1, {}));
  wait_for_steps(run);
  forge(run, {"another boot", foreign.pid(), 1}, foreign.pid());
  SupervisedAttempts after_restart({state_.path().string(), LOCKSTEP_FAKE_RANK});
  EXPECT_TRUE(after_restart.poll(run.attempt).supervisor_alive);
  EXPECT_EQ(after_restart.stop(run.attempt, {}), StopAnswer::kAccepted);
  EXPECT_EQ(wait_for_end(run).exit.code, 7);
  EXPECT_TRUE(ProcessHandle::open(foreign.pid()));
}

TEST_F(OwnershipTest, F4_OnlyAProcessOfTheAttemptCanBeARankOfIt) {
  const LaunchSpec run = launch(spec(1, {}));
  const AttemptStatus before = wait_for_steps(run);
  for (const char* rank : {"0", "1", "-1", "\"x\"", "null"}) {
    const auto reply = call_control(
        directory(run), std::string(R"({"version":1,"verb":"rank","rank":)") + rank + "}", 5000);
    ASSERT_TRUE(reply);
    EXPECT_TRUE(reply->descriptors.empty());
  }
  EXPECT_EQ(attempts_.poll(run.attempt).ranks, before.ranks);
}

// S15: what the supervisor and the coordinator read may be anything.
TEST_F(OwnershipTest, S15_DamagedFilesEndNothingButTheirOwnAttempt) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string(R"({"version":1})"),
        std::string(R"({"version":2,"phase":5})"), std::string(R"({"version":1,"phase":"x"})"),
        std::string(1 << 16, '[')}) {
    const LaunchSpec run = abandoned();
    for (const char* name : {"state.json", "supervisor.json"})
      state_.write(relative(run, name), text);
    state_.write(relative(run, "stop.json"), text);
    const AttemptStatus end = wait_for_end(run);
    EXPECT_NE(end.exit.category, FailureCategory::kDone);
    EXPECT_THROW(parse_launch_spec(text), core::Error);
    EXPECT_THROW(parse_stop_message(text), core::Error);
    EXPECT_THROW(parse_attempt_status(text), core::Error);
  }
}

}  // namespace
}  // namespace lockstep::coordinator
