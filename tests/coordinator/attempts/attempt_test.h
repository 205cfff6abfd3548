#pragma once

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/control_channel.h"
#include "coordinator/attempts/log_reader.h"
#include "coordinator/attempts/process.h"
#include "coordinator/attempts/supervised_attempts.h"
#include "tests/coordinator/attempts/attempt_engine.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::coordinator {

// Attempts of fake ranks (fake_rank.cc) under the real supervisor, mpirun and engine. At the end of
// every test nothing runs any more, and all invariants are checked.
class AttemptTest : public ::testing::Test {
 protected:
  AttemptTest()
      : attempts_({state_.path().string(), LOCKSTEP_FAKE_RANK}),
        engine_(state_.path().string(), attempts_) {}

  void TearDown() override {
    engine_.finish();
    for (const LaunchSpec& spec : launched_)
      EXPECT_THAT(tagged(spec), ::testing::IsEmpty()) << "processes are left behind (I3)";
  }

  // What `ranks` fake ranks do, as fake_rank.cc describes it; then launch() of it.
  LaunchSpec spec(int ranks, nlohmann::json behaviour,
                  nlohmann::json of_ranks = nlohmann::json::object()) {
    LaunchSpec result;
    const int number = ++number_;
    // What sweeps goes by the tag, so that no other test, now or before, may have the same id.
    result.attempt = {fmt::format("t{}x{}x{}", getpid(), began_ns_, number), 1, 100 + number};
    result.output = (state_ / ("output" + std::to_string(number))).string();
    const nlohmann::json config = {{"output", result.output},
                                   {"default", std::move(behaviour)},
                                   {"ranks", std::move(of_ranks)}};
    result.config_file =
        state_.write("config" + std::to_string(number) + ".json", config.dump()).string();
    HostSlots host{"here", "localhost", {}};
    for (int slot = 0; slot < ranks; ++slot)
      host.slots.push_back(slot);
    result.hosts.push_back(std::move(host));
    result.logs.bytes = 1 << 20;
    return result;
  }
  // Through the engine, which sets spec.attempt.
  void launch(LaunchSpec& spec) {
    engine_.launch(spec);
    launched_.push_back(spec);
  }
  LaunchSpec launch(LaunchSpec&& spec) {
    launch(spec);
    return spec;
  }

  AttemptStatus wait_until(const LaunchSpec& spec, auto condition, int seconds = 60) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    AttemptStatus status = attempts_.poll(spec.attempt);
    while (!condition(status) && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      engine_.tick();
      status = attempts_.poll(spec.attempt);
    }
    EXPECT_TRUE(condition(status)) << "phase " << static_cast<int>(status.phase) << "\n"
                                   << story(spec);
    return status;
  }
  AttemptStatus wait_for(const LaunchSpec& spec, AttemptPhase phase) {
    return wait_until(spec, [&](const AttemptStatus& s) { return s.phase == phase; });
  }
  AttemptStatus wait_for_end(const LaunchSpec& spec) {
    return wait_for(spec, AttemptPhase::kEnded);
  }
  // Every rank is there, and all of them have printed something.
  AttemptStatus wait_for_steps(const LaunchSpec& spec) {
    wait_for(spec, AttemptPhase::kRunning);
    return wait_until(spec, [&](const AttemptStatus&) { return all_have_printed(spec); });
  }

  void wait_until_stopped_by_signal(const LaunchSpec& spec, std::int64_t pid) {
    wait_until(spec, [&](const AttemptStatus&) {
      const auto stat = read_stat(static_cast<pid_t>(pid));
      return stat && stat->state == 'T';
    });
  }

  std::string directory(const LaunchSpec& spec) const {
    return attempt_directory(state_.path().string(), spec.attempt);
  }
  // What the supervisor noted.
  std::string story(const LaunchSpec& spec) const {
    return lockstep::testing::read_file(directory(spec) + "/spool.jsonl") +
           lockstep::testing::read_file(directory(spec) + "/supervisor.log") + log(spec, -1, true);
  }
  std::vector<pid_t> tagged(const LaunchSpec& spec) const {
    std::vector<pid_t> pids;
    for (const auto& process :
         processes_with_variable(kAttemptTagVariable, attempt_tag(spec.attempt)))
      pids.push_back(process.pid());
    return pids;
  }
  std::string log(const LaunchSpec& spec, int rank, bool err = false) const {
    LogQuery query;
    query.ranks = {rank};
    query.out = !err;
    query.err = err;
    LogReader reader(directory(spec), spec.attempt.number, query);
    std::string text;
    while (const auto piece = reader.next(true))
      text += piece->bytes;
    return text;
  }

  lockstep::testing::TemporaryDirectory state_;
  SupervisedAttempts attempts_;
  testing::AttemptEngine engine_;

 private:
  bool all_have_printed(const LaunchSpec& spec) const {
    for (int rank = 0; rank < spec.ranks(); ++rank) {
      if (log(spec, rank).empty()) return false;
    }
    return true;
  }

  const std::int64_t began_ns_ = unix_now_ns();
  int number_ = 0;
  std::vector<LaunchSpec> launched_;
};

}  // namespace lockstep::coordinator
