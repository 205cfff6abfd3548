#include <array>
#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "tests/coordinator/engine/engine_fixture.h"

// Whatever happens in whatever order, the invariants hold and the engine never takes a wrong edge.
namespace lockstep::coordinator::testing {
namespace {

class Random : public EngineTest {
 protected:
  void SetUp() override {
    log_.open_file((directory_ / "engine.log").string());
    start();
  }

  void TearDown() override {
    EngineTest::TearDown();
    // What a tick could not do with a run is told there and nowhere else.
    const std::string log = lockstep::testing::read_file(directory_ / "engine.log");
    EXPECT_EQ(log.find("not an edge"), std::string::npos) << log;
    EXPECT_EQ(log.find("event "), std::string::npos) << log;
  }

  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  // Mostly one that goes on.
  std::string any_run() {
    std::vector<RunPtr> runs = engine_->list();
    if (below(8) != 0) {
      std::erase_if(runs, [](const RunPtr& record) { return is_terminal(record->run.state); });
    }
    return runs.empty() ? "" : runs[below(runs.size())]->run.id;
  }

  void verb(const std::string& id) {
    const std::string request = "r" + std::to_string(++requests_);
    const auto served = [&](const RunPtr& record) {
      invariants_.acknowledged(caller_.name, request, record->run.id);
    };
    switch (below(9)) {
      case 0:
        return served(engine_->cancel({id, "", below(2) == 0, kSecond, request}, caller_));
      case 1:
      case 2:
        return served(engine_->pause({id, "", request}, caller_));
      case 3:
      case 4:
        return served(engine_->resume(id, request, caller_));
      case 5:
        return served(engine_->checkpoint(id, request, caller_));
      default:
        return served(engine_->retry({id, {}, false, request}, caller_));
    }
  }

  // The processes of a run that has some: heard of, saving, or ended in some way.
  void process_does(const std::string& id) {
    const RunPtr record = engine_->find(id);
    if (!has_attempt(record->run.state)) return;
    FakeAttempts::Entry* entry = attempts_.find(record->current_ref());
    if (entry == nullptr) return;
    const auto step = static_cast<std::int64_t>(below(100));
    if (below(4) == 0) {
      constexpr std::array kEnds = {FailureCategory::kDone,       FailureCategory::kStopped,
                                    FailureCategory::kRankSignal, FailureCategory::kHostLost,
                                    FailureCategory::kNumeric,    FailureCategory::kCoordinator};
      entry->status.phase = AttemptPhase::kEnded;
      entry->status.exit.category = kEnds[below(kEnds.size())];
      entry->status.exit.step = step;
      return;
    }
    if (record->run.state == RunState::kStarting) return register_agent(id);
    const BeatAnswer answer = beat(id, step);
    if (answer.control == Control::kCheckpoint) {
      checkpoints_.add(record->run.output, step + 1, below(5) != 0);
      beat(id, step + 1, step + 1, answer.control_id);
    }
  }

  void drain_or_undrain() {
    if (below(6) == 0) {
      engine_->drain("h1", "", below(2) == 0, "", caller_);
    } else {
      engine_->undrain("h1", "", caller_);
    }
  }

  void act() {
    const std::string id = any_run();
    const std::size_t what = below(20);
    if (what == 0 && engine_->list().size() < 60) {
      submit("n" + std::to_string(++requests_), 1 << below(3));
    } else if (what <= 5) {
      engine_->tick();
    } else if (what == 6) {
      clock_.advance(static_cast<double>(below(60)));
    } else if (what == 7 && below(4) == 0) {
      restart();
    } else if (what == 8) {
      drain_or_undrain();
    } else if (what <= 16 && !id.empty()) {
      process_does(id);
    } else if (!id.empty()) {
      verb(id);
    }
  }

  std::mt19937_64 random_{11};
  int requests_ = 0;
};

TEST_F(Random, I1_to_I6_HoldWhateverHappens) {
  std::set<RunState> seen;
  for (int i = 0; i < 1500; ++i) {
    try {
      act();
    } catch (const EngineError& error) {
      const std::set<std::string> expected = {"WRONG_STATE", "OUTPUT_IN_USE", "NO_CHECKPOINT"};
      EXPECT_TRUE(expected.contains(error.reason())) << error.reason() << ": " << error.what();
    }
    for (const RunPtr& record : engine_->list())
      seen.insert(record->run.state);
    if (i % 50 == 0) check();
  }
  for (int state = 1; state <= 10; ++state) {
    const auto wanted = static_cast<RunState>(state);
    EXPECT_TRUE(seen.contains(wanted)) << to_string(wanted) << " was never reached";
  }
}

// Callers on several threads against the one that ticks.
TEST_F(Random, VerbsFromManyThreadsAreOneAfterAnother) {
  std::vector<std::string> ids;
  for (int i = 0; i < 6; ++i)
    ids.push_back(submit("r" + std::to_string(i), 1));
  std::atomic<bool> stop = false;
  std::atomic<int> unexpected = 0;
  std::int64_t notices = 0;
  std::int64_t last = 0;
  bool in_order = true;
  const std::int64_t subscription = engine_->subscribe([&](const Notice& notice) {
    if (notice.event == nullptr) return;
    ++notices;
    in_order = in_order && notice.event->sequence > last;
    last = notice.event->sequence;
  });
  std::vector<std::thread> callers;
  for (int t = 0; t < 3; ++t) {
    callers.emplace_back([&, t] {
      std::mt19937_64 random(static_cast<std::uint64_t>(t));
      for (int i = 0; i < 40; ++i) {
        const std::string& id = ids[random() % ids.size()];
        try {
          switch (random() % 4) {
            case 0:
              engine_->pause({id, "", ""}, caller_);
              break;
            case 1:
              engine_->resume(id, "", caller_);
              break;
            case 2:
              engine_->explain(id);
              break;
            default:
              engine_->update({id, "", {}, {}, {}, i, {}, {}, ""}, caller_);
              break;
          }
        } catch (const EngineError& error) {
          if (error.reason() != "WRONG_STATE") ++unexpected;
        }
      }
    });
  }
  std::thread beats([&] {
    while (!stop) {
      for (const std::string& id : ids) {
        const RunPtr record = engine_->find(id);
        if (record->run.state == RunState::kStarting) register_agent(id);
        if (record->run.state == RunState::kRunning) beat(id, 5);
      }
      std::this_thread::yield();
    }
  });
  for (int i = 0; i < 40; ++i)
    engine_->tick();
  for (std::thread& caller : callers)
    caller.join();
  stop = true;
  beats.join();
  engine_->unsubscribe(subscription);
  EXPECT_EQ(unexpected, 0);
  EXPECT_TRUE(in_order);
  EXPECT_EQ(last, engine_->newest_sequence());
  EXPECT_GT(notices, 0);
}

}  // namespace
}  // namespace lockstep::coordinator::testing
