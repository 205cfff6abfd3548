// Signals: no handler runs where it does harm, and a request to stop is answered in every phase of
// a run, whoever gets it, with exit code 7, a whole checkpoint and a line that says so.
// LOCKSTEP_STOPS (default 6) is the number of random stops, LOCKSTEP_STOP_SEED (default: from the
// clock) what is random about them.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_directory.h"
#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AnyOf;
using testing::Command;
using testing::CommandResult;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::TrainingCall;
using Clock = std::chrono::steady_clock;

// Wide enough for the matrix products that work on a stack of their own.
const std::vector<std::string> kWide = {"model.width=128", "model.heads=4", "model.context=64",
                                        "batch.global=8", "batch.micro=4"};

class SignalTest : public testing::TrainingTest {
 protected:
  std::vector<pid_t> everybody() const {
    return testing::processes_with(path("config.yaml").string());
  }

  bool is_rank(pid_t process) const {
    return !testing::environment_of(process, "OMPI_COMM_WORLD_RANK").empty();
  }

  // Whether a process has come so far as to hold its signals, which a program does first of all.
  static bool holds_signals(pid_t process) {
    const std::string status = testing::read_file(fmt::format("/proc/{}/status", process));
    const std::size_t at = status.find("SigBlk:");
    if (at == std::string::npos) return false;
    const std::uint64_t held = std::stoull(status.substr(at + 7), nullptr, 16);
    return (held & (1ULL << (SIGTERM - 1))) != 0;
  }

  void wait_until_held(pid_t process) const {
    const auto deadline = Clock::now() + seconds(30);
    while (!holds_signals(process) && Clock::now() < deadline)
      std::this_thread::sleep_for(milliseconds(1));
  }

  void send_to_all(int signal) const {
    for (const pid_t process : everybody())
      kill(process, signal);
  }

  std::vector<std::int64_t> whole_checkpoints(const std::string& output) const {
    std::vector<std::int64_t> steps;
    const std::string checkpoints = path(output + "/checkpoints");
    for (const std::string& name : runtime::list_entries(checkpoints)) {
      const auto step = runtime::step_of_name(name);
      if (!step) continue;
      EXPECT_NO_THROW(runtime::verify_checkpoint(runtime::read_manifest(checkpoints + "/" + name)));
      steps.push_back(*step);
    }
    std::sort(steps.begin(), steps.end());
    return steps;
  }

  // As a shell does it: `prefix` in front of the command, its redirections behind.
  CommandResult train_in_shell(const TrainingCall& call, const std::string& before,
                               const std::string& after) const {
    std::string words;
    for (const std::string& word : command_line(call))
      words += " '" + word + "'";
    return testing::run_command({"bash", "-c", before + words + after}, command_options(call));
  }
};

TEST_F(SignalTest, W1_AHandlerOnATimerChangesNoBit) {
  for (const int ranks : {1, 2}) {
    TrainingCall call{.set = kWide, .ranks = ranks, .threads = 2};
    call.set.push_back("train.steps=30");
    call.output = fmt::format("calm{}", ranks);
    must_train(call);
    call.output = fmt::format("ticking{}", ranks);
    auto options = command_options(call);
    options.environment["LD_PRELOAD"] = std::getenv("LOCKSTEP_TICKING_TIMER");
    const CommandResult result = testing::run_command(command_line(call), options);
    ASSERT_EQ(result.exit_code, 0) << "signal " << result.signal << "\n" << result.err;
    expect_same_run(call.output, fmt::format("calm{}", ranks), 30);
  }
}

TEST_F(SignalTest, W1_OneRankStopsGracefully) {
  TrainingCall call{.set = kWide, .more = {"--resume", "auto"}};
  call.set.push_back("train.steps=100000");
  for (int stop = 1; stop <= 3; ++stop) {
    Command run(command_line(call), command_options(call));
    wait_for_step("run", 10 * stop);
    kill(run.pid(), SIGTERM);
    const CommandResult result = run.wait();
    ASSERT_EQ(result.exit_code, 7) << "signal " << result.signal << "\n" << result.err;
    EXPECT_EQ(whole_checkpoints("run").back(), static_cast<std::int64_t>(step_lines("run").size()));
  }
}

TEST_F(SignalTest, W10_ASignalToLauncherMpirunAndRanksAtOnce) {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    SCOPED_TRACE(strsignal(signal));
    TrainingCall call{.set = {"train.steps=100000"}, .ranks = 2};
    call.output = fmt::format("run{}", signal);
    Command run(command_line(call), command_options(call));
    wait_for_step(call.output, 3);
    send_to_all(signal);
    const CommandResult result = run.wait();
    EXPECT_EQ(result.exit_code, 7) << result.err;
    EXPECT_THAT(whole_checkpoints(call.output), Not(IsEmpty()));
    EXPECT_THAT(result.err, HasSubstr("stopped on request"));
  }
}

TEST_F(SignalTest, W10_ARequestWaitsForRanksThatAreStarting) {
  TrainingCall call{.set = {"train.steps=100000"}, .ranks = 2};
  for (const int delay : {0, 30, 100, 250, 500}) {
    SCOPED_TRACE(delay);
    call.output = fmt::format("after{}", delay);
    Command run(command_line(call), command_options(call));
    wait_until_held(run.pid());
    std::this_thread::sleep_for(milliseconds(delay));
    kill(run.pid(), SIGTERM);
    const CommandResult result = run.wait();
    EXPECT_EQ(result.exit_code, 7) << result.err;
    EXPECT_THAT(result.err, HasSubstr("stopped on request"));
  }
}

TEST_F(SignalTest, D7_TwoSignalsWithinAMomentAreOneRequest) {
  for (const int ranks : {1, 2}) {
    TrainingCall call{.set = {"train.steps=100000"}, .ranks = ranks};
    call.output = fmt::format("run{}", ranks);
    Command run(command_line(call), command_options(call));
    wait_for_step(call.output, 3);
    kill(run.pid(), SIGTERM);
    std::this_thread::sleep_for(milliseconds(20));
    kill(run.pid(), SIGINT);
    const CommandResult result = run.wait();
    EXPECT_EQ(result.exit_code, 7) << result.err;
    EXPECT_THAT(whole_checkpoints(call.output), Not(IsEmpty()));
  }
}

TEST_F(SignalTest, D7_ASecondSignalEndsAtOnce) {
  for (const int ranks : {1, 2}) {
    TrainingCall call{.set = {"fault=[{kind: hang, step: 3}]"}, .ranks = ranks};
    call.output = fmt::format("run{}", ranks);
    Command run(command_line(call), command_options(call));
    wait_for_step(call.output, 2);
    kill(run.pid(), SIGTERM);
    std::this_thread::sleep_for(milliseconds(1300));
    kill(run.pid(), SIGTERM);
    const CommandResult result = run.wait();
    EXPECT_EQ(result.exit_code, 7) << result.err;
    if (ranks > 1) {
      EXPECT_THAT(result.err, HasSubstr("second signal"));
      continue;
    }
    EXPECT_THAT(text(call.output + "/exit/rank-0000.json"), HasSubstr("second signal"));
  }
}

TEST_F(SignalTest, D2_KillingMpirunIsSaid) {
  TrainingCall call{.set = {"train.steps=100000"}, .ranks = 2};
  Command run(command_line(call), command_options(call));
  wait_for_step("run", 3);
  for (const pid_t process : everybody()) {
    if (process != run.pid() && !is_rank(process)) kill(process, SIGKILL);
  }
  const CommandResult result = run.wait();
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_THAT(result.err, HasSubstr("mpirun was ended by signal 9"));
}

TEST_F(SignalTest, D8_MpirunThatCannotStartIsSaid) {
  TrainingCall call{.ranks = 2};
  std::ofstream(path("file")).flush();
  const std::string file = path("file");
  CommandResult result = train_in_shell(call, "TMPDIR='" + file + "'", "");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("TMPDIR"));
  result = train_in_shell(call, "ulimit -n 24;", "");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("open files"));
  result = train_in_shell(call, "mkdir gone; cd gone; rmdir ../gone;", "");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("working directory"));
  result = train_in_shell(call, "PATH=/nowhere", "");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("install Open MPI"));
}

TEST_F(SignalTest, D6_SighupStopsUnlessItIsIgnored) {
  TrainingCall call{.set = {"train.steps=100000"}};
  Command run(command_line(call), command_options(call));
  wait_for_step("run", 3);
  kill(run.pid(), SIGHUP);
  const CommandResult result = run.wait();
  EXPECT_EQ(result.exit_code, 7) << result.err;
  EXPECT_THAT(whole_checkpoints("run"), Not(IsEmpty()));
  TrainingCall detached{.output = "detached"};
  const CommandResult ended =
      train_in_shell(detached, "trap '' HUP;", " & sleep 0.1; kill -HUP $!; wait $!");
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
}

TEST_F(SignalTest, W15_ClosedOrBrokenOutputsDoNotEndARun) {
  for (const int ranks : {1, 2}) {
    for (const char* where : {" >&- 2>&-", " 2>&1 | true; exit ${PIPESTATUS[0]}"}) {
      SCOPED_TRACE(where);
      TrainingCall call{.ranks = ranks, .output = fmt::format("run{}{}", ranks, where[1])};
      const CommandResult result = train_in_shell(call, "", where);
      EXPECT_EQ(result.exit_code, 0) << result.err;
      EXPECT_EQ(step_lines(call.output).size(), 20U);
    }
  }
}

TEST_F(SignalTest, D6_AFileTooLargeNamesTheLimit) {
  TrainingCall call{};
  const CommandResult result = train_in_shell(call, "ulimit -f 8;", "");  // KiB
  EXPECT_EQ(result.exit_code, 3) << result.err;
  EXPECT_THAT(result.err, HasSubstr("ulimit -f"));
}

// A step of many minutes.
TEST_F(SignalTest, D5_AStopIsHeardWithinAStep) {
  for (const int ranks : {1, 2}) {
    TrainingCall call{.set = kWide, .ranks = ranks, .timeout_seconds = 180};
    call.set.insert(call.set.end(),
                    {"batch.global=32000", "train.steps=2", "schedule.warmup_steps=0"});
    call.output = fmt::format("run{}", ranks);
    Command run(command_line(call), command_options(call));
    wait_for_log(call.output, "parameters");
    std::this_thread::sleep_for(milliseconds(300));
    const auto asked = Clock::now();
    kill(run.pid(), SIGTERM);
    const CommandResult result = run.wait();
    EXPECT_EQ(result.exit_code, 7) << result.err;
    EXPECT_LT(Clock::now() - asked, seconds(60));
    EXPECT_THAT(whole_checkpoints(call.output), ::testing::ElementsAre(0));
  }
}

TEST_F(SignalTest, W14_AStopIsHeardWithinAValidation) {
  write_tokens("long.bin", testing::structured_tokens(2'000'000, kVocabulary));
  for (const int ranks : {1, 3}) {
    TrainingCall call{.set = kWide, .ranks = ranks, .timeout_seconds = 180};
    call.set.insert(call.set.end(), {"batch.global=12", "train.steps=4", "schedule.warmup_steps=0",
                                     "train.validate_every=2", "data.validation=long.bin"});
    call.output = fmt::format("run{}", ranks);
    Command run(command_line(call), command_options(call));
    wait_for_step(call.output, 2);
    std::this_thread::sleep_for(milliseconds(300));
    kill(run.pid(), SIGTERM);
    const CommandResult result = run.wait();
    ASSERT_EQ(result.exit_code, 7) << result.err;
    EXPECT_THAT(lines(call.output, "validation"), IsEmpty());
    ASSERT_THAT(whole_checkpoints(call.output), ::testing::ElementsAre(2));
    // The next attempt makes up for it.
    call.set.push_back("train.validate_batches=1");
    call.more = {"--resume", "auto"};
    must_train(call);
    EXPECT_EQ(lines(call.output, "validation").size(), 2U);
  }
}

TEST_F(SignalTest, D5_AStopIsHeardWhileWaitingForALock) {
  TrainingCall call{.set = {"fault=[{kind: hang, step: 3}]"}};
  Command first(command_line(call), command_options(call));
  wait_for_step("run", 2);
  call.more = {"--resume", "auto"};
  Command second(command_line(call), command_options(call));
  wait_until_held(second.pid());
  std::this_thread::sleep_for(milliseconds(300));
  kill(second.pid(), SIGTERM);
  const CommandResult result = second.wait();
  EXPECT_EQ(result.exit_code, 7) << result.err;
  EXPECT_THAT(result.err, HasSubstr("waiting for an earlier attempt"));
  kill(first.pid(), SIGKILL);
  first.wait();
}

// One run, stopped again and again at random moments.
class RandomStopTest : public SignalTest {
 protected:
  void SetUp() override {
    SignalTest::SetUp();
    const char* seed = std::getenv("LOCKSTEP_STOP_SEED");
    seed_ = seed == nullptr ? std::random_device{}() : static_cast<std::uint32_t>(std::stoul(seed));
    random_.seed(seed_);
  }

  int below(int limit) { return static_cast<int>(random_() % static_cast<std::uint32_t>(limit)); }

  void signal_somebody(pid_t launcher);

  std::uint32_t seed_ = 0;
  std::map<std::string, int> told_;

 private:
  std::mt19937 random_;
};

// The command, one rank, or all; once, or several times within a moment.
void RandomStopTest::signal_somebody(pid_t launcher) {
  constexpr int kSignals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
  std::vector<pid_t> to = {launcher};
  std::string whom = "the command";
  const int choice = below(3);
  if (choice == 1) {
    to = everybody();
    std::erase_if(to, [&](pid_t process) {
      const bool mpirun = process != launcher && !is_rank(process);
      return !mpirun && !holds_signals(process);
    });
    whom = "all";
  } else if (choice == 2) {
    std::vector<pid_t> ranks = everybody();
    std::erase_if(ranks, [&](pid_t each) { return !is_rank(each) || !holds_signals(each); });
    if (!ranks.empty()) {
      to = {ranks[static_cast<std::size_t>(below(static_cast<int>(ranks.size())))]};
      whom = "a rank";
    }
  }
  const int times = 1 + below(2) * below(3);
  told_[fmt::format("{}{}", whom, times > 1 ? ", several" : "")] += 1;
  for (int i = 0; i < times; ++i) {
    const int signal = kSignals[below(whom == "all" ? 3 : 4)];
    for (const pid_t process : to)
      kill(process, signal);
    if (i + 1 < times) std::this_thread::sleep_for(milliseconds(below(150)));
  }
}

TEST_F(RandomStopTest, StoppedAnywhereItGoesOnAsIfNothingHadHappened) {
  const char* number = std::getenv("LOCKSTEP_STOPS");
  const int wanted = number == nullptr ? 6 : std::atoi(number);
  SCOPED_TRACE(fmt::format("LOCKSTEP_STOP_SEED={}", seed_));
  int stops = 0;
  for (int life = 0; stops < wanted && !HasFailure(); ++life) {
    constexpr int kSteps = 300;
    TrainingCall call{
        .set = {fmt::format("train.steps={}", kSteps), "run.reproducible=ranks",
                "train.validate_every=20", "checkpoint.every_steps=15", "checkpoint.keep=2",
                "data.order=shuffled", "model.dropout=0.1", fmt::format("run.seed={}", life)},
        .timeout_seconds = 180};
    TrainingCall whole = call;
    whole.output = fmt::format("whole{}", life);
    must_train(whole);
    call.output = fmt::format("stopped{}", life);
    call.more = {"--resume", "auto"};
    bool done = false;
    for (int i = 0; i < 8 && stops < wanted && !done; ++i) {
      call.ranks = 1 + below(4);
      Command run(command_line(call), command_options(call));
      wait_until_held(run.pid());
      std::this_thread::sleep_for(milliseconds(below(2500)));
      signal_somebody(run.pid());
      const CommandResult result = run.wait();
      done = result.exit_code == 0;
      ASSERT_THAT(result.exit_code, AnyOf(0, 7))
          << "signal " << result.signal << ", " << call.ranks << " ranks\n"
          << result.err;
      EXPECT_THAT(result.err, AnyOf(HasSubstr("stopped on request"), HasSubstr("step 300/300")));
      whole_checkpoints(call.output);
      stops += done ? 0 : 1;
    }
    if (!done) must_train(call);
    expect_same_run(call.output, whole.output, kSteps);
  }
  std::string whom;
  for (const auto& [name, count] : told_)
    whom += fmt::format(", {} {}", count, name);
  fmt::print("stops: seed {}: {} stops{}\n", seed_, stops, whom);
}

}  // namespace
}  // namespace lockstep
