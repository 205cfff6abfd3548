#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/attempt_host.h"
#include "coordinator/attempts/process.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/file_checkpoints.h"
#include "coordinator/store/store.h"
#include "core/log.h"
#include "tests/coordinator/engine/invariants.h"

namespace lockstep::coordinator::testing {

// A real engine and its store above real processes: what a test launches is a run with an attempt
// and leased slots, so that all invariants can be looked at whatever the processes did. Nothing
// moves between two calls; there is no server and no agent.
class AttemptEngine {
 public:
  // state_directory: of `attempts` too; both outlive this.
  AttemptEngine(const std::string& state_directory, AttemptHost& attempts)
      : attempts_(attempts), state_directory_(state_directory) {
    options_.state_directory = state_directory;
    options_.hosts = {{"here", "localhost", "cpu", 16}};
    options_.verify_in_tick = true;
    start();
  }
  ~AttemptEngine() {
    engine_.reset();
    store_.reset();
  }
  AttemptEngine(const AttemptEngine&) = delete;
  AttemptEngine& operator=(const AttemptEngine&) = delete;

  // Starts just this, as an attempt of a new run that is never tried again; sets spec.attempt.
  void launch(LaunchSpec& spec) {
    attempts_.told = &spec;
    CreateRequest request;
    request.display_name = "test";
    request.config_yaml = config_of_run();
    request.resources.ranks = spec.ranks();
    request.retry_policy.max_restarts = -1;
    request.request_id = "request-" + std::to_string(++requests_);
    const std::string id = engine_->create(request, caller_).run->run.id;
    invariants_.acknowledged(caller_.name, request.request_id, id);
    tick_until([&] { return attempts_.told == nullptr; });
  }

  // A second request only goes further down the ladder.
  void cancel(const LaunchSpec& spec, std::int64_t grace_ns, bool force = false) {
    const std::string request = "request-" + std::to_string(++requests_);
    engine_->cancel({spec.attempt.run, "", force, grace_ns, request}, caller_);
    invariants_.acknowledged(caller_.name, request, spec.attempt.run);
  }

  void tick() { engine_->tick(); }
  // As kill -9 of the coordinator, and the next one.
  void restart() {
    engine_.reset();
    store_.reset();
    start();
  }
  Run run(const LaunchSpec& spec) const { return engine_->find(spec.attempt.run)->run; }
  RunState state(const LaunchSpec& spec) const { return run(spec).state; }

  // The processes of attempts of this engine's runs, by their tags.
  std::vector<AttemptRef> living() const {
    std::vector<AttemptRef> found;
    for (const RunPtr& record : engine_->list()) {
      for (const Attempt& attempt : record->attempts) {
        const AttemptRef ref{record->run.id, attempt.number, attempt.fence};
        if (!processes_with_variable(kAttemptTagVariable, attempt_tag(ref)).empty()) {
          found.push_back(ref);
        }
      }
    }
    return found;
  }

  // Ends all that still runs, and checks the invariants: as the engine leaves things, and after
  // its death.
  void finish() {
    tick();
    invariants_.check(*store_, living());
    for (const RunPtr& record : engine_->list()) {
      if (is_terminal(record->run.state)) continue;
      engine_->cancel({record->run.id, "", true, 0, ""}, caller_);
    }
    tick_until([&] {
      for (const RunPtr& record : engine_->list()) {
        if (!is_terminal(record->run.state)) return false;
      }
      return true;
    });
    invariants_.check(*store_, living());
    restart();
    tick();
    invariants_.check(*store_, living());
  }

 private:
  // Gives the engine's attempts the processes that the test wants.
  class Told final : public AttemptHost {
   public:
    explicit Told(AttemptHost& real) : real_(real) {}
    void launch(const LaunchSpec& spec) override {
      ASSERT_NE(told, nullptr) << "the engine starts something of its own accord";
      told->attempt = spec.attempt;
      const LaunchSpec& wanted = *told;
      told = nullptr;
      real_.launch(wanted);
    }
    AttemptStatus poll(const AttemptRef& attempt) override { return real_.poll(attempt); }
    StopAnswer stop(const AttemptRef& attempt, const StopRequest& request) override {
      return real_.stop(attempt, request);
    }
    std::vector<FoundAttempt> find_all(
        const std::function<bool(const std::string&)>& skip) override {
      return real_.find_all(skip);
    }
    void set_aside(const AttemptRef& attempt) override { real_.set_aside(attempt); }
    void remove(const AttemptRef& attempt) override { real_.remove(attempt); }

    LaunchSpec* told = nullptr;

   private:
    AttemptHost& real_;
  };

  void start() {
    store_ = std::make_unique<Store>(state_directory_);
    engine_ = std::make_unique<Engine>(*store_, attempts_, checkpoints_, clock_, log_, options_);
    engine_->subscribe([this](const Notice& notice) {
      if (notice.event != nullptr) invariants_.saw(*notice.run);
    });
  }

  void tick_until(const auto& condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!condition()) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "the engine does not get on";
      tick();
      if (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  // What the engine has of a run; the processes read what the test gives them. Each has an output
  // of its own here, since what two attempts of a test do with one is the test's affair.
  std::string config_of_run() const {
    return "run: {output: /nowhere/engine-output-" + std::to_string(requests_) +
           "}\n"
           "model: {layers: 1, heads: 1, width: 8, context: 8, vocab: 64}\n"
           "data: {train: /none/train.bin}\n"
           "batch: {global: 24, micro: 1}\n"
           "train: {steps: 100}\n"
           "optimizer: {learning_rate: 1e-3}\n";
  }

  Told attempts_;
  const std::string state_directory_;
  EngineOptions options_;
  SystemClock clock_;
  core::Logger log_{0, 1, core::LogLevel::kError};
  FileCheckpoints checkpoints_{log_};
  Caller caller_;
  Invariants invariants_;
  int requests_ = 0;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace lockstep::coordinator::testing
