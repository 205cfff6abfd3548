#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "coordinator/attempts/launch_command.h"
#include "core/error.h"
#include "tests/coordinator/attempts/attempt_test.h"

namespace lockstep::coordinator {
namespace {

using nlohmann::json;
using ::testing::Contains;
using ::testing::IsSubsetOf;
using ::testing::Not;
using ::testing::StartsWith;

class LaunchTest : public AttemptTest {
 protected:
  json dump_of_ended() const {
    return json::parse(lockstep::testing::read_file((state_ / "dump0").string()));
  }
  json dump_of(const LaunchSpec& run) {
    wait_for_steps(run);
    return dump_of_ended();
  }
};

// What a user can influence reaches the rank as one argument, byte for byte.
TEST_F(LaunchTest, S6_NoShellAnywhere) {
  for (const std::string& name :
       {std::string("; touch pwned"), std::string("$(touch pwned)"), std::string("`touch pwned`"),
        std::string("--mca btl_tcp_if_include lo"), std::string("-x LD_PRELOAD"),
        std::string("a\nb"), std::string(" * ? [x] {a,b} ~ | & > < \" ' \\ "),
        std::string(100'000, 'x')}) {
    LaunchSpec run = spec(1, {{"steps", 1}, {"dump", (state_ / "dump").string()}});
    std::filesystem::remove(state_ / "dump0");
    run.resume = "/" + name;
    launch(run);
    wait_for_end(run);
    const json arguments = dump_of_ended()["arguments"];
    ASSERT_EQ(arguments.size(), 5U);
    EXPECT_EQ(arguments[1], "train");
    EXPECT_EQ(arguments[2], run.config_file);
    EXPECT_EQ(arguments[3], "--resume");
    EXPECT_EQ(arguments[4], run.resume);
    EXPECT_FALSE(std::filesystem::exists(directory(run) + "/pwned"));
  }
}

TEST_F(LaunchTest, S6_TheEnvironmentOfRanksIsBuiltFromAList) {
  setenv("LD_LOCKSTEP_TEST", "1", 1);
  setenv("OMPI_MCA_lockstep_test", "1", 1);
  setenv("PMIX_LOCKSTEP_TEST", "1", 1);
  setenv("LOCKSTEP_TOKEN", "canary", 1);
  LaunchSpec run = spec(2, {{"dump", (state_ / "dump").string()}});
  run.agent_address = "unix:/nowhere";
  run.agent_token_file = "/nowhere/token";
  run.threads_per_rank = 3;
  launch(run);
  const auto environment = dump_of(run)["environment"].get<std::vector<std::string>>();
  EXPECT_THAT(environment, Not(Contains(StartsWith("LD_"))));
  EXPECT_THAT(environment, Not(Contains("OMPI_MCA_lockstep_test=1")));
  EXPECT_THAT(environment, Not(Contains("PMIX_LOCKSTEP_TEST=1")));
  EXPECT_THAT(environment, Not(Contains("LOCKSTEP_TOKEN=canary")));
  EXPECT_THAT(environment, Contains("LOCKSTEP_ATTEMPT=" + attempt_tag(run.attempt)));
  EXPECT_THAT(environment, Contains("LOCKSTEP_COORDINATOR=unix:/nowhere"));
  EXPECT_THAT(environment, Contains("LOCKSTEP_AGENT_TOKEN_FILE=/nowhere/token"));
  EXPECT_THAT(environment, Contains("OMP_NUM_THREADS=3"));
  for (const char* name :
       {"LD_LOCKSTEP_TEST", "OMPI_MCA_lockstep_test", "PMIX_LOCKSTEP_TEST", "LOCKSTEP_TOKEN"})
    unsetenv(name);
}

TEST_F(LaunchTest, VariablesOfTheRunReachItsRanksButNoneThatSteersThem) {
  LaunchSpec run = spec(1, {{"dump", (state_ / "dump").string()}});
  run.environment = {{"LD_LIBRARY_PATH", "/somewhere; touch pwned"}, {"OMP_NUM_THREADS", "7"}};
  run.threads_per_rank = 3;
  EXPECT_EQ(parse_launch_spec(to_text(to_json(run))), run);
  launch(run);
  const auto environment = dump_of(run)["environment"].get<std::vector<std::string>>();
  EXPECT_THAT(environment, Contains("LD_LIBRARY_PATH=/somewhere; touch pwned"));
  EXPECT_THAT(environment, Contains("OMP_NUM_THREADS=7"));
  for (const char* name : {"LOCKSTEP_ATTEMPT", "OMPI_COMM_WORLD_RANK", "A=B"}) {
    LaunchSpec steering = spec(1, {});
    steering.environment[name] = "x";
    EXPECT_THROW(check_launchable(steering), core::Error) << name;
  }
}

// The coordinator was killed between launch.json and fork(): nobody has the lock, and no supervisor
// has ever said who it is.
TEST_F(LaunchTest, AnAttemptWhoseLaunchWasCutShortIsAbsentAndCanBeLaunched) {
  const LaunchSpec cut = spec(1, {{"steps", 1}});
  std::filesystem::create_directories(directory(cut));
  for (const char* made : {"lock", "launch.json", "supervisor.log"}) {
    std::ofstream file(directory(cut) + "/" + made);
    if (made == std::string("launch.json")) file << to_text(to_json(cut));
    file.close();
    SupervisedAttempts next({state_.path().string(), LOCKSTEP_FAKE_RANK});
    EXPECT_EQ(next.poll(cut.attempt).phase, AttemptPhase::kAbsent) << made;
    EXPECT_FALSE(std::filesystem::exists(directory(cut) + "/exit.json")) << made;
  }
  attempts_.launch(cut);
  EXPECT_EQ(wait_for_end(cut).exit.category, FailureCategory::kDone) << story(cut);
  // What has run is never launched a second time.
  EXPECT_THROW(attempts_.launch(cut), core::Error);
}

TEST_F(LaunchTest, S6_RefusesWhatCouldBeReadAsSomethingElse) {
  const LaunchSpec good = spec(1, {});
  const auto refused = [&](auto change) {
    LaunchSpec bad = good;
    change(bad);
    EXPECT_THROW(attempts_.launch(bad), core::Error);
    EXPECT_EQ(attempts_.poll(bad.attempt.run.empty() ? good.attempt : good.attempt).phase,
              AttemptPhase::kAbsent);
  };
  refused([](LaunchSpec& s) { s.config_file = "--mca"; });
  refused([](LaunchSpec& s) { s.config_file = "relative.yaml"; });
  refused([](LaunchSpec& s) { s.config_file += std::string("\0x", 2); });
  refused([](LaunchSpec& s) { s.resume = "-x"; });
  refused([](LaunchSpec& s) { s.output = ""; });
  for (const char* address : {"", "-x", "a,b", "a:9", "a b", "a;b", "a\nb"})
    refused([&](LaunchSpec& s) { s.hosts[0].address = address; });
  refused([](LaunchSpec& s) { s.hosts[0].slots.clear(); });
  refused([](LaunchSpec& s) { s.logs.bytes = 100; });
}

TEST_F(LaunchTest, S7_PathsComeFromIdsOfTheServerOnly) {
  for (const char* run : {"", "..", "../../etc", "a/b", "/etc", "A", "a.b", "a b", "a\n"}) {
    EXPECT_THROW(attempt_directory("/state", {run, 1, 1}), core::Error) << run;
    EXPECT_THROW(attempts_.poll({run, 1, 1}), core::Error) << run;
  }
  EXPECT_THROW(attempt_directory("/state", {"abc", 0, 1}), core::Error);
  EXPECT_EQ(attempt_directory("/state", {"abc1", 2, 1}), "/state/runs/abc1/attempts/2");
}

TEST_F(LaunchTest, S7_ARankCannotTurnTheSupervisorsFilesIntoLinks) {
  const lockstep::testing::TemporaryDirectory elsewhere;
  const std::string secret = elsewhere.write("secret", "canary\n").string();
  const LaunchSpec run = launch(spec(1, {}));
  wait_for_steps(run);
  for (const char* name : {"state.json.tmp", "exit.json.tmp", "exit.json", "stacks.txt.tmp"})
    std::filesystem::create_symlink(secret, directory(run) + "/" + name);
  EXPECT_EQ(attempts_.poll(run.attempt).phase, AttemptPhase::kRunning) << "a link is no record";
  attempts_.stop(run.attempt, {});
  EXPECT_EQ(wait_for_end(run).exit.code, 7);
  EXPECT_EQ(lockstep::testing::read_file(secret), "canary\n");
}

TEST_F(LaunchTest, S11_ALoudRankStaysWithinItsQuotaAndIsNotHeldUp) {
  LaunchSpec run = spec(2, {{"steps", 3}, {"bytes", 64 << 20}});
  run.logs.bytes = 1 << 20;
  launch(run);
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.category, FailureCategory::kDone) << story(run);
  EXPECT_GE(end.log_bytes, 2 * (64 << 20));
  EXPECT_GT(end.log_dropped, 120 << 20);
  std::int64_t kept = 0;
  for (const auto& file : std::filesystem::directory_iterator(directory(run) + "/logs"))
    kept += static_cast<std::int64_t>(file.file_size());
  EXPECT_LE(kept, 1 << 20);
  EXPECT_THAT(log(run, 1), StartsWith("rank 1 writes"));
  EXPECT_THAT(log(run, 1), ::testing::EndsWith("step 1\nstep 2\nstep 3\n"));
}

TEST(LaunchCommand, NamesHostsSlotsAndDevices) {
  LaunchSpec spec;
  spec.attempt = {"run", 1, 1};
  spec.config_file = "/c.yaml";
  spec.output = "/o";
  spec.device_kind = "gpu";
  spec.hosts = {{"a", "a.example", {2, 3}}, {"b", "10.0.0.2", {0}}};
  EXPECT_EQ(spec.ranks(), 3);
  EXPECT_EQ(visible_devices(spec), "2,3/2,3/0");
  const auto command =
      launch_command(spec, "/state/d", "/bin/lockstep", {{"OMP_NUM_THREADS", "1"}});
  const std::string all = fmt::format("{}", fmt::join(command, " "));
  EXPECT_THAT(all, ::testing::HasSubstr("--host a.example:2,10.0.0.2:1"));
  EXPECT_THAT(all, ::testing::HasSubstr("-np 3"));
  EXPECT_THAT(all, ::testing::HasSubstr("-x OMP_NUM_THREADS"));
  EXPECT_THAT(all, Not(::testing::HasSubstr("LOCKSTEP_CA")));
  EXPECT_THAT(all, ::testing::EndsWith(
                       "--devices 2,3/2,3/0 -- /bin/lockstep train /c.yaml --resume never"));
}

}  // namespace
}  // namespace lockstep::coordinator
