#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "coordinator/engine/engine.h"
#include "coordinator/store/store.h"
#include "core/log.h"
#include "tests/coordinator/engine/fakes.h"
#include "tests/coordinator/engine/invariants.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::coordinator::testing {

// An engine on a real store, with time, processes and checkpoints that the test sets. The
// invariants are checked after every test.
class EngineTest : public ::testing::Test {
 protected:
  EngineTest() {
    options_.state_directory = (directory_ / "state").string();
    options_.hosts = {{"h1", "localhost", "cpu", 4}, {"h2", "localhost", "cpu", 2}};
    options_.agent_address = "unix:/none";
    options_.verify_in_tick = true;
    options_.seed = 5;
  }

  void SetUp() override { start(); }

  void TearDown() override {
    check();
    engine_.reset();
    store_.reset();
  }

  void start() {
    store_ = std::make_unique<Store>(options_.state_directory);
    engine_ = std::make_unique<Engine>(*store_, attempts_, checkpoints_, clock_, log_, options_);
    engine_->subscribe([this](const Notice& notice) {
      if (notice.event != nullptr) invariants_.saw(*notice.run);
    });
  }

  // As kill -9 and a new start: nothing of the engine is left but its store.
  void restart() {
    engine_.reset();
    store_.reset();
    start();
  }

  void check() { invariants_.check(*store_, attempts_.living()); }

  CreateRequest request(const std::string& name, int ranks = 2) {
    CreateRequest request;
    request.config_yaml = "run: {seed: 7, output: " + output(name) +
                          "}\n"
                          "model: {layers: 2, heads: 2, width: 64, context: 32, vocab: 256}\n"
                          "data: {train: /none/train.bin}\n"
                          "batch: {global: 8, micro: 1}\n"
                          "train: {steps: 100}\n"
                          "optimizer: {learning_rate: 1e-3}\n";
    request.display_name = name;
    request.resources.ranks = ranks;
    request.request_id = "request-" + name;
    return request;
  }

  std::string output(const std::string& name) { return (directory_ / ("out-" + name)).string(); }

  std::string submit(const CreateRequest& request) {
    const std::string id = engine_->create(request, caller_).run->run.id;
    invariants_.acknowledged(caller_.name, request.request_id, id);
    return id;
  }
  std::string submit(const std::string& name, int ranks = 2) {
    return submit(request(name, ranks));
  }

  auto run(const std::string& id) const -> coordinator::Run { return engine_->find(id)->run; }
  RunState state(const std::string& id) { return run(id).state; }
  AttemptRef ref(const std::string& id) { return engine_->find(id)->current_ref(); }
  FakeAttempts::Entry& process(const std::string& id) { return *attempts_.find(ref(id)); }

  void register_agent(const std::string& id) {
    AgentRegistration registration;
    registration.attempt = ref(id);
    registration.world_size = run(id).resources.ranks;
    registration.total_steps = 100;
    engine_->register_agent(registration);
  }

  // Submits and brings it to RUNNING.
  std::string running(const std::string& name, int ranks = 2) {
    const std::string id = submit(name, ranks);
    bring_up(id);
    return id;
  }
  void bring_up(const std::string& id) {
    engine_->tick();
    ASSERT_EQ(state(id), RunState::kStarting);
    register_agent(id);
    ASSERT_EQ(state(id), RunState::kRunning);
  }

  BeatAnswer beat(const std::string& id, std::int64_t step, std::int64_t checkpoint_step = 0,
                  std::int64_t acked = 0, double step_seconds = 1.0) {
    Beat beat;
    beat.attempt = ref(id);
    beat.step = step;
    beat.activity = step * 10;
    beat.collective_sequence = static_cast<std::uint64_t>(step) * 3;
    beat.step_seconds = step_seconds;
    beat.loss = 2.5;
    beat.checkpoint_step = checkpoint_step;
    beat.acked_control_id = acked;
    beat.phase = "training";
    return engine_->heartbeat(beat);
  }

  void end(const std::string& id, FailureCategory category, int rank = -1, std::int64_t step = 0) {
    FakeAttempts::Entry& entry = process(id);
    entry.status.phase = AttemptPhase::kEnded;
    entry.status.exit.category = category;
    entry.status.exit.failing_rank = rank;
    entry.status.exit.step = step;
    entry.status.end_time_ns = clock_.now_ns();
    engine_->tick();
  }

  // The trainer does as the control says: saves at `step`, and tells of it.
  void answer_checkpoint(const std::string& id, std::int64_t step, bool whole = true) {
    const BeatAnswer asked = beat(id, step);
    ASSERT_EQ(asked.control, Control::kCheckpoint);
    checkpoints_.add(run(id).output, step, whole);
    beat(id, step, step, asked.control_id);
    engine_->tick();
  }

  // A run in this state, by the ways that lead there.
  std::string in_state(RunState state, const std::string& name) {
    switch (state) {
      case RunState::kWaiting: {
        CreateRequest held = request(name);
        held.hold = true;
        return submit(held);
      }
      case RunState::kQueued:
        return submit(name);
      case RunState::kStarting: {
        const std::string id = submit(name);
        engine_->tick();
        return id;
      }
      default:
        break;
    }
    const std::string id = running(name);
    if (state == RunState::kStopping || state == RunState::kCancelled) {
      engine_->cancel({id, "", false, kSecond, ""}, caller_);
      if (state == RunState::kCancelled) end(id, FailureCategory::kStopped);
    } else if (state == RunState::kBackoff) {
      end(id, FailureCategory::kRankSignal, 1, 3);
    } else if (state == RunState::kSucceeded) {
      end(id, FailureCategory::kDone);
    } else if (state == RunState::kFailed) {
      end(id, FailureCategory::kNumeric, 0, 3);
    } else if (state == RunState::kPaused) {
      engine_->pause({id, "", ""}, caller_);
      answer_checkpoint(id, 5);
      end(id, FailureCategory::kStopped, -1, 5);
    }
    return id;
  }

  lockstep::testing::TemporaryDirectory directory_;
  EngineOptions options_;
  FakeClock clock_;
  FakeAttempts attempts_;
  FakeCheckpoints checkpoints_;
  core::Logger log_{0, 1, core::LogLevel::kError};
  Caller caller_{"local", "unix"};
  Invariants invariants_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Engine> engine_;
};

// The reason of the EngineError that `call` throws; "" if it throws none.
template <typename Call>
std::string refusal_of(const Call& call) {
  try {
    call();
  } catch (const EngineError& error) {
    return error.reason();
  }
  return "";
}

}  // namespace lockstep::coordinator::testing
