// A run that is killed again and again, anywhere, ends as if nothing had happened, and each kill
// leaves nothing behind. LOCKSTEP_KILLS (default 10) is the number of kills, LOCKSTEP_KILL_SEED
// (default: from the clock) what is random about them.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <random>
#include <thread>

#include "core/error.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_directory.h"
#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;
using testing::Command;
using testing::CommandResult;
using testing::Launch;
using testing::TrainingCall;

constexpr int kSteps = 400;
constexpr int kMostKills = 6;  // of one run
constexpr milliseconds kRunTime{1400};

std::uint32_t number_from(const char* variable, std::uint32_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : static_cast<std::uint32_t>(std::stoul(text));
}

// A training, which may go on with what its promise leaves free.
struct Life {
  std::vector<std::string> set;
  bool any_layout = false;  // run.reproducible: ranks
  int ranks = 1;
  int stage = 2;
  std::string expected;
  std::string output;
};

class KillTest : public testing::TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    seed_ = number_from("LOCKSTEP_KILL_SEED", std::random_device{}());
    random_.seed(seed_);
  }

  int below(int limit) { return static_cast<int>(random_() % static_cast<std::uint32_t>(limit)); }

  Life new_life(int number);
  TrainingCall next_attempt(const Life& life);
  void wait_for_the_moment(const Life& life, pid_t launcher);
  void kill_somebody(pid_t launcher);
  bool attempt_and_kill(const Life& life);
  void check_checkpoints(const Life& life);
  void finish(const Life& life);

  std::uint32_t seed_ = 0;
  std::map<std::string, int> killed_;  // who, and in what
  int kills_ = 0;

 private:
  std::mt19937 random_;
  std::int64_t newest_step_ = 0;
};

Life KillTest::new_life(int number) {
  const char* computes[] = {"fp32", "bf16", "fp16"};
  Life life;
  life.any_layout = below(2) == 0;
  life.ranks = 1 + below(3);
  life.stage = below(3);
  life.set = {fmt::format("train.steps={}", kSteps),
              "train.validate_every=30",
              "checkpoint.every_steps=3",
              "checkpoint.keep=2",
              "model.dropout=0.1",
              "data.order=shuffled",
              fmt::format("run.seed={}", number),
              fmt::format("precision.compute={}", computes[below(3)]),
              fmt::format("run.reproducible={}", life.any_layout ? "ranks" : "run"),
              "fault=[{kind: overflow, step: 50, rank: 0, layer: 1}]"};
  life.expected = fmt::format("undisturbed{}", number);
  life.output = fmt::format("killed{}", number);
  newest_step_ = 0;
  TrainingCall undisturbed{.set = life.set, .ranks = life.ranks, .output = life.expected};
  undisturbed.set.push_back(fmt::format("parallel.zero_stage={}", life.stage));
  must_train(undisturbed);
  return life;
}

TrainingCall KillTest::next_attempt(const Life& life) {
  TrainingCall call{.set = life.set, .output = life.output, .timeout_seconds = 30};
  call.ranks = life.any_layout ? 1 + below(3) : life.ranks;
  const int stage = life.any_layout ? below(3) : life.stage;
  call.set.push_back(fmt::format("parallel.zero_stage={}", stage));
  call.set.push_back(fmt::format("checkpoint.async={}", below(2) == 0));
  call.launch = below(2) == 0 ? Launch::kRanksOption : Launch::kMpirun;
  call.more = {"--resume", "auto"};
  return call;
}

bool is_saving(const std::string& checkpoints) {
  const auto names = runtime::list_entries(checkpoints);
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.find(runtime::kTemporaryMark) != std::string::npos;
  });
}

// Any time, or while a checkpoint is being written.
void KillTest::wait_for_the_moment(const Life& life, pid_t launcher) {
  const bool in_a_save = below(2) == 0;
  std::this_thread::sleep_for(milliseconds(below(static_cast<int>(kRunTime.count()))));
  if (!in_a_save) return;
  const std::string checkpoints = path(life.output + "/checkpoints");
  const std::string program = fmt::format("/proc/{}/cmdline", launcher);
  while (!is_saving(checkpoints) && !testing::read_file(program).empty())
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  std::this_thread::sleep_for(std::chrono::microseconds(below(3000)));
}

// One of the processes of the run, whichever there are by now; sometimes all at the same instant.
void KillTest::kill_somebody(pid_t launcher) {
  std::vector<pid_t> victims = testing::processes_with(path("config.yaml").string());
  if (victims.empty()) return;
  if (below(5) != 0)
    victims = {victims[static_cast<std::size_t>(below(static_cast<int>(victims.size())))]};
  for (const pid_t victim : victims) {
    const bool is_rank = !testing::environment_of(victim, "OMPI_COMM_WORLD_RANK").empty();
    killed_[victims.size() > 1   ? "all at once"
            : is_rank            ? "a rank"
            : victim == launcher ? "the command"
                                 : "mpirun below it"] += victim == victims.front() ? 1 : 0;
    kill(victim, SIGKILL);
  }
}

// False if the run ended before.
bool KillTest::attempt_and_kill(const Life& life) {
  const TrainingCall call = next_attempt(life);
  SCOPED_TRACE(fmt::format("kill {}: {}", kills_ + 1, fmt::join(command_line(call), " ")));
  Command run(command_line(call), command_options(call));
  wait_for_the_moment(life, run.pid());
  const auto counts = killed_;
  kill_somebody(run.pid());
  const CommandResult result = run.wait();
  if (call.launch == Launch::kMpirun && result.err.find("PMIX ERROR") != std::string::npos) {
    // Open MPI's fault: a bare mpirun can hang when a rank dies in MPI_Init.
    killed_["stuck in a bare mpirun"] += result.timed_out ? 1 : 0;
  } else {
    EXPECT_FALSE(result.timed_out) << result.err;
  }
  expect_nothing_left();
  check_checkpoints(life);
  if (result.exit_code == 0) {
    killed_ = counts;
    return false;
  }
  const bool tells_a_code = result.signal == 0 && call.launch == Launch::kRanksOption;
  EXPECT_TRUE(!tells_a_code || result.exit_code == 5) << result.exit_code << "\n" << result.err;
  killed_[is_saving(path(life.output + "/checkpoints")) ? "in a save" : "elsewhere"] += 1;
  kills_ += 1;
  return true;
}

// What has its final name is whole, and what was there once is not lost.
void KillTest::check_checkpoints(const Life& life) {
  const std::string checkpoints = path(life.output + "/checkpoints");
  std::int64_t newest = 0;
  for (const std::string& name : runtime::list_entries(checkpoints)) {
    const auto step = runtime::step_of_name(name);
    if (!step) continue;
    newest = std::max(newest, *step);
    EXPECT_NO_THROW(runtime::verify_checkpoint(runtime::read_manifest(checkpoints + "/" + name)));
  }
  EXPECT_GE(newest, newest_step_);
  newest_step_ = newest;
}

void KillTest::finish(const Life& life) {
  TrainingCall last = next_attempt(life);
  SCOPED_TRACE(fmt::format("{}", fmt::join(command_line(last), " ")));
  must_train(last);
  expect_same_run(life.output, life.expected, kSteps);
  EXPECT_FALSE(is_saving(path(life.output + "/checkpoints")));
  EXPECT_EQ(lockstep({"audit", path(life.output), path(life.expected)}).exit_code, 0);
}

TEST_F(KillTest, KilledAnywhereItGoesOnAsIfNothingHadHappened) {
  const int wanted = static_cast<int>(number_from("LOCKSTEP_KILLS", 10));
  int lives = 0;
  for (; kills_ < wanted && !HasFailure(); ++lives) {
    const Life life = new_life(lives);
    SCOPED_TRACE(fmt::format("LOCKSTEP_KILL_SEED={}, run {}", seed_, lives));
    const int end = std::min(kills_ + kMostKills, wanted);
    while (kills_ < end && attempt_and_kill(life)) {
    }
    finish(life);
  }
  std::string places;
  for (const auto& [what, count] : killed_)
    places += fmt::format(", {} {}", count, what);
  fmt::print("kill: seed {}: {} kills of {} runs{}\n", seed_, kills_, lives, places);
  EXPECT_EQ(kills_, wanted);
  EXPECT_GT(killed_["in a save"], 0);
}

}  // namespace
}  // namespace lockstep
