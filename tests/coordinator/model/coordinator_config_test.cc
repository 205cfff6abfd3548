#include "coordinator/model/coordinator_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "core/error.h"

namespace lockstep::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string problems_of(const std::string& text) {
  try {
    parse_coordinator_config(text, "c.yaml");
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
    return error.what();
  }
  return "";
}

TEST(CoordinatorConfig, HasDefaultsForEverything) {
  setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
  setenv("HOME", "/home/somebody", 1);
  const CoordinatorConfig config = default_coordinator_config();
  EXPECT_EQ(config.state_directory, "/home/somebody/.local/state/lockstep");
  ASSERT_EQ(config.listen.size(), 1U);
  EXPECT_EQ(config.listen[0].text(), "unix:/run/user/7/lockstep/coordinator.sock");
  EXPECT_EQ(config.agent_address, config.listen[0].text());
  ASSERT_EQ(config.hosts.size(), 1U);
  EXPECT_EQ(config.hosts[0].address, "localhost");
  EXPECT_GE(config.hosts[0].slots, 1);
  EXPECT_EQ(config.metrics_port, 0);
  EXPECT_EQ(config.retry.max_restarts, 5);
  unsetenv("XDG_RUNTIME_DIR");
  EXPECT_EQ(default_socket(), "/home/somebody/.lockstep/coordinator.sock");
}

TEST(CoordinatorConfig, ReadsEveryKey) {
  const CoordinatorConfig config = parse_coordinator_config(R"(
state_directory: state
listen: [unix:/tmp/s.sock, "127.0.0.1:0", "[::1]:7070", "0.0.0.0:7071"]
tls: {certificate: c.pem, key: /k.pem, client_ca: ca.pem}
agents: {address: "head:7071"}
hosts:
  - {name: a, slots: 2}
  - {name: b, address: 10.0.0.2, gpus: 8}
metrics_port: 9464
limits: {queued_runs: 5, queued_runs_per_caller: 4, streams_per_caller: 3,
         log_bytes_per_run: 1048576, priority: {submit: 10, operate: 500}}
environment: {pass: [NCCL_*, LD_LIBRARY_PATH], runs: OMP_NUM_THREADS}
retention: {runs: 1000, age: 30d, attempts: 3, logs: 36h}
hooks: {run_ended: [[/usr/bin/logger, -t, a run], [/bin/true]], timeout_seconds: 2.5}
retry: {max_restarts: 0, base_delay_seconds: 0.5, max_delay_seconds: 60}
log: {file: log.jsonl, level: debug}
)",
                                                            "c.yaml");
  EXPECT_EQ(config.state_directory, std::filesystem::current_path() / "state");
  ASSERT_EQ(config.listen.size(), 4U);
  EXPECT_EQ(config.listen[2].text(), "[::1]:7070");
  EXPECT_TRUE(config.listen[2].is_loopback());
  EXPECT_FALSE(config.listen[3].is_loopback());
  EXPECT_EQ(config.tls.key, "/k.pem");
  EXPECT_EQ(config.tls.client_ca, std::filesystem::current_path() / "ca.pem");
  EXPECT_EQ(config.agent_address, "head:7071");
  EXPECT_EQ(config.hosts.at(0).address, "a");
  EXPECT_EQ(config.hosts.at(1).kind, "gpu");
  EXPECT_EQ(config.hosts.at(1).slots, 8);
  EXPECT_EQ(config.metrics_port, 9464);
  EXPECT_EQ(config.limits.log_bytes_per_run, 1'048'576);
  EXPECT_EQ(config.retry.max_restarts, 0);
  EXPECT_EQ(config.retry.base_delay_ns, kSecond / 2);
  EXPECT_EQ(config.log.level, "debug");
  EXPECT_EQ(config.limits.priority_of_submit, 10);
  EXPECT_EQ(config.limits.priority_of_operate, 500);
  EXPECT_EQ(config.environment.pass, (std::vector<std::string>{"NCCL_*", "LD_LIBRARY_PATH"}));
  EXPECT_EQ(config.environment.runs, (std::vector<std::string>{"OMP_NUM_THREADS"}));
  EXPECT_EQ(config.retention,
            (RetentionPolicy{1000, 30 * 86400 * kSecond, 3, 36 * 3600 * kSecond}));
  ASSERT_EQ(config.hooks.run_ended.size(), 2U);
  EXPECT_EQ(config.hooks.run_ended[0],
            (std::vector<std::string>{"/usr/bin/logger", "-t", "a run"}));
  EXPECT_EQ(config.hooks.timeout_ns, 5 * kSecond / 2);
}

TEST(CoordinatorConfig, NamesPlaceAndNearestKeyOfAllThatIsWrong) {
  const std::string text = problems_of(
      "state_directry: /x\n"
      "limits:\n"
      "  queued_run: 3\n"
      "  streams_per_caller: many\n"
      "hosts:\n"
      "  - {name: a, slots: 0}\n"
      "  - {name: a, slots: 1, gpus: 1}\n"
      "metrics_port: 70000\n");
  EXPECT_THAT(text, AllOf(HasSubstr("c.yaml:1:1: state_directry: unknown key"),
                          HasSubstr("did you mean 'state_directory'?"),
                          HasSubstr("c.yaml:3:3: limits.queued_run: unknown key"),
                          HasSubstr("c.yaml:4:23: limits.streams_per_caller:"),
                          HasSubstr("c.yaml:6:"), HasSubstr("a second host of the name 'a'"),
                          HasSubstr("either slots (CPU ranks) or gpus"),
                          HasSubstr("c.yaml:8:15: metrics_port: found 70000")));
}

TEST(CoordinatorConfig, RefusesPoliciesThatSayNothingOrTooMuch) {
  EXPECT_THAT(problems_of("environment: {pass: [LOCKSTEP_*]}"),
              HasSubstr("never come from outside"));
  EXPECT_THAT(problems_of("environment: {runs: [OMPI_MCA_btl]}"), HasSubstr("steer the ranks"));
  EXPECT_THAT(problems_of("environment: {runs: ['A B']}"), HasSubstr("the name of a variable"));
  EXPECT_THAT(problems_of("environment: {runs: ['*X']}"), HasSubstr("such as NCCL_*"));
  EXPECT_THAT(problems_of("retention: {age: 30}"), HasSubstr("such as 90s, 15m, 12h or 30d"));
  EXPECT_THAT(problems_of("retention: {age: soon, runs: -1}"),
              AllOf(HasSubstr("retention.age: found 'soon'"), HasSubstr("retention.runs")));
  EXPECT_THAT(problems_of("hooks: {run_ended: [logger]}"), HasSubstr("a list of words"));
  EXPECT_THAT(problems_of("hooks: {run_ended: [[logger, x]]}"), HasSubstr("an absolute path"));
  EXPECT_THAT(problems_of("limits: {priority: {submit: 1001}}"),
              HasSubstr("limits.priority.submit"));
}

TEST(CoordinatorConfig, VariablesThatSteerRanksNeverComeFromOutside) {
  EXPECT_TRUE(allows_variable({"*"}, "ANYTHING"));
  EXPECT_TRUE(allows_variable({"NCCL_*"}, "NCCL_DEBUG"));
  EXPECT_FALSE(allows_variable({"NCCL_*"}, "NCC"));
  EXPECT_FALSE(allows_variable({"NCCL"}, "NCCL_DEBUG"));
  for (const char* name :
       {"LOCKSTEP_ATTEMPT", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PRTE_MCA_x", "A=B", "", "1A"})
    EXPECT_FALSE(allows_variable({"*"}, name)) << name;
}

TEST(CoordinatorConfig, RefusesDuplicatesAndWhatIsNotYaml) {
  EXPECT_THAT(problems_of("metrics_port: 1\nmetrics_port: 2\n"), HasSubstr("duplicate key"));
  EXPECT_THAT(problems_of("a: [\n"), HasSubstr("not valid YAML"));
  EXPECT_THAT(problems_of("- a\n"), HasSubstr("expected a map"));
  EXPECT_THAT(problems_of("--- {}\n--- {}\n"), HasSubstr("a second YAML document"));
  EXPECT_THAT(problems_of("state_directory: ~/x\n"), HasSubstr("~ is not expanded"));
  EXPECT_EQ(problems_of(""), "");
}

TEST(S1_OnlyLoopbackWithoutTls, TheReaderRefusesAnythingElse) {
  for (const char* open : {"0.0.0.0:7070", "'[::]:7070'", "head.example.org:7070", "10.1.2.3:1"}) {
    EXPECT_THAT(problems_of(std::string("listen: ") + open), HasSubstr("needs tls")) << open;
    EXPECT_EQ(problems_of(std::string("tls: {certificate: c, key: k}\nlisten: ") + open), "");
  }
  for (const char* closed :
       {"unix:/s", "/s", "127.0.0.1:7070", "127.9.9.9:1", "'[::1]:7070'", "localhost:7070"}) {
    EXPECT_EQ(problems_of(std::string("listen: ") + closed), "") << closed;
  }
  // A name that only looks like loopback.
  EXPECT_THAT(problems_of("listen: 127.evil.example.org:7070"), HasSubstr("needs tls"));
  EXPECT_THAT(problems_of("listen: []"), HasSubstr("nobody could reach"));
  EXPECT_THAT(problems_of("listen: here"), HasSubstr("expected unix:/PATH, HOST:PORT"));
  EXPECT_THAT(problems_of("listen: 127.0.0.1:99999"), HasSubstr("expected a port"));
}

TEST(CoordinatorConfig, OtherHostsMustBeAbleToReachIt) {
  EXPECT_THAT(problems_of("hosts: [{name: far, slots: 1}]"), HasSubstr("agents.address"));
  EXPECT_EQ(problems_of("agents: {address: 'head:1'}\nhosts: [{name: far, slots: 1}]"), "");
  EXPECT_THAT(problems_of("hosts: []"), HasSubstr("nothing could ever run"));
  EXPECT_THAT(problems_of("hosts: [{name: 'a b', slots: 1}]"), HasSubstr("letters, digits"));
  EXPECT_THAT(problems_of("hosts: [{name: '-oProxy', slots: 1}]"), HasSubstr("letters, digits"));
}

TEST(CoordinatorConfig, TheFileThatComesWithTheSourceIsRight) {
  const char* source = std::getenv("LOCKSTEP_SOURCE_DIR");
  ASSERT_NE(source, nullptr) << "set LOCKSTEP_SOURCE_DIR, as ctest does";
  EXPECT_NO_THROW(load_coordinator_config(std::string(source) + "/configs/coordinator.yaml"));
}

}  // namespace
}  // namespace lockstep::coordinator
