// What Prometheus reads, and the dashboard that shows it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include <nlohmann/json.hpp>

#include "tests/coordinator/server/test_server.h"

namespace lockstep::coordinator::testing {
namespace {

// Names and types, from the lines "# TYPE NAME TYPE".
std::map<std::string, std::string> types_in(const std::string& text) {
  std::map<std::string, std::string> types;
  std::istringstream lines(text);
  const std::regex type("# TYPE ([^ ]+) ([^ ]+)");
  std::smatch found;
  for (std::string line; std::getline(lines, line);)
    if (std::regex_match(line, found, type)) types[found[1]] = found[2];
  return types;
}

std::string metrics_text() {
  TestServer server;
  const RunPtr run = server.submit("a");
  server.wait_for(run->run.id, RunState::kRunning);
  server.attempts.end(run->run.id, 0);
  server.wait_for(run->run.id, RunState::kSucceeded);
  ServerMetrics metrics;
  metrics.count_call("lockstep.v1.RunService/GetRun", "OK", 0.002);
  metrics.count_stream_ended("lockstep.v1.RunService/ReadLogs", "OK");
  return metrics.text(*server.engine, 1, 2, 1);
}

// The rules of promtool's linter: lower case, a prefix of our own, base units, counters that end in
// _total and nothing else that does, help for everything, no name of a type in a name, samples right
// behind their head.
TEST(Metrics, AreNamedAsPrometheusAsksFor) {
  const std::string text = metrics_text();
  const auto types = types_in(text);
  ASSERT_GT(types.size(), 10U);
  for (const auto& [name, type] : types) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(std::regex_match(name, std::regex("lockstep_[a-z][a-z0-9_]*")));
    EXPECT_EQ(name.ends_with("_total"), type == "counter");
    EXPECT_NE(text.find("# HELP " + name + " "), std::string::npos);
    for (const char* unit :
         {"milliseconds", "minutes", "hours", "kilobytes", "gauge", "counter", "histogram", "__"})
      EXPECT_EQ(name.find(unit), std::string::npos) << unit;
  }
  std::istringstream lines(text);
  std::string head;
  std::set<std::string> seen;
  for (std::string line; std::getline(lines, line);) {
    std::smatch found;
    if (std::regex_match(line, found, std::regex("# HELP ([^ ]+) .*\\."))) {
      head = found[1];
      EXPECT_TRUE(seen.insert(head).second) << head << " has two heads";
    } else if (!line.starts_with("#")) {
      EXPECT_TRUE(line.starts_with(head)) << line << " is not behind its head";
      EXPECT_TRUE(std::regex_match(
          line, std::regex("[a-z_]+(\\{[a-z_]+=\"[^\"]*\"(,[a-z_]+=\"[^\"]*\")*\\})? [^ ]+")))
          << line;
    }
  }
}

// Where it is installed, its own linter has the last word.
TEST(Metrics, PassPromtool) {
  if (std::system("command -v promtool > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "promtool is not installed (package prometheus)";
  }
  const lockstep::testing::TemporaryDirectory directory;
  const std::string file = directory.write("metrics", metrics_text()).string();
  EXPECT_EQ(std::system(("promtool check metrics < " + file).c_str()), 0);
}

TEST(Metrics, TheDashboardAsksForWhatThereIs) {
  const char* source = std::getenv("LOCKSTEP_SOURCE_DIR");
  ASSERT_NE(source, nullptr) << "set LOCKSTEP_SOURCE_DIR, as ctest does";
  std::ifstream in(std::string(source) + "/configs/grafana_dashboard.json");
  const auto dashboard = nlohmann::json::parse(in);
  const auto types = types_in(metrics_text());
  std::set<std::string> asked;
  std::set<int> ids;
  for (const auto& panel : dashboard.at("panels")) {
    EXPECT_TRUE(ids.insert(panel.at("id").get<int>()).second);
    for (const auto& target : panel.at("targets")) {
      const std::string expression = target.at("expr");
      const std::regex name("lockstep_[a-z_]+");
      for (std::sregex_iterator at(expression.begin(), expression.end(), name), end; at != end;
           ++at)
        asked.insert(std::regex_replace(at->str(), std::regex("_(bucket|count|sum)$"), ""));
    }
  }
  EXPECT_GT(asked.size(), 12U);
  for (const std::string& name : asked)
    EXPECT_TRUE(types.contains(name)) << "there is no metric " << name;
}

}  // namespace
}  // namespace lockstep::coordinator::testing
