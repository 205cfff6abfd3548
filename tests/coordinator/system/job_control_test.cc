#include "tests/coordinator/system/job_control_test.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <thread>

#include "coordinator/store/store.h"

namespace lockstep::testing {
namespace {

using coordinator::AttemptRef;
using std::chrono::milliseconds;

// Two ranks, a checkpoint now and then; long enough to be disturbed, short enough for a test.
constexpr const char* kTraining = R"(
run: {seed: 7}
model: {layers: 2, heads: 2, width: 32, context: 16, vocab: 64}
data: {train: tokens.bin, validation: tokens.bin}
batch: {global: 24, micro: 1}
train: {steps: 60, validate_every: 20}
optimizer: {learning_rate: 1e-2}
schedule: {warmup_steps: 5}
checkpoint: {every_steps: 10, keep: 4}
)";

const char* binary() {
  return std::getenv("LOCKSTEP_BINARY");
}

// "RUN.NUMBER.FENCE"
AttemptRef attempt_of(const std::string& tag) {
  const std::size_t first = tag.find('.');
  const std::size_t last = tag.rfind('.');
  return {tag.substr(0, first), std::stoi(tag.substr(first + 1, last - first - 1)),
          std::stoll(tag.substr(last + 1))};
}

// What follows an option; empty if it is not there.
std::string value_of(const Arguments& arguments, const std::string& option) {
  const auto found = std::find(arguments.begin(), arguments.end(), option);
  return found == arguments.end() ? "" : *(found + 1);
}

}  // namespace

void check_invariants(coordinator::testing::Invariants& invariants,
                      const std::filesystem::path& state_directory) {
  coordinator::Store store(state_directory);
  const coordinator::StoreContents contents = store.load();
  std::vector<AttemptRef> living;
  for (const auto& process : std::filesystem::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(process.path().filename().c_str());
    const std::string tag = pid > 0 ? environment_of(pid, "LOCKSTEP_ATTEMPT") : "";
    for (const auto& record : contents.runs) {
      if (tag.starts_with(record.run.id + ".")) living.push_back(attempt_of(tag));
    }
  }
  invariants.check(store, living);
}

std::string new_request_id() {
  static std::mt19937_64 random(std::random_device{}());
  const std::uint64_t a = random();
  const std::uint64_t b = random();
  return fmt::format("{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}", a >> 32U, (a >> 16U) & 0xffffU,
                     a & 0xfffU, b >> 52U, b & 0xffffffffffffU);
}

bool has_ended(pid_t child) {
  siginfo_t info{};
  const int got = waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT);
  return got != 0 || info.si_pid == child;
}

int JobControlTest::loops(const char* variable, int quick) {
  const char* value = std::getenv(variable);
  return value == nullptr ? quick : std::atoi(value);
}

void JobControlTest::SetUp() {
  TrainingTest::SetUp();
  directory_.write("config.yaml", kTraining);
  directory_.write("coordinator.yaml",
                   fmt::format("state_directory: {}\n"
                               "listen: unix:{}\n"
                               "hosts: [{{name: local, address: localhost, slots: 4}}]\n"
                               "retry: {{base_delay_seconds: 0.2, max_delay_seconds: 1}}\n"
                               "log: {{file: {}}}\n",
                               path("state").string(), path("socket").string(),
                               path("coordinator.jsonl").string()));
  setenv("LOCKSTEP_ADDRESS", ("unix:" + path("socket").string()).c_str(), 1);
  for (const char* name : {"LOCKSTEP_TOKEN", "LOCKSTEP_TOKEN_FILE", "LOCKSTEP_CA"})
    unsetenv(name);
}

void JobControlTest::TearDown() {
  if (coordinator_ != nullptr) {
    if (!coordinator_ended()) kill_coordinator();
    check_invariants(invariants_, path("state"));
    start();
    end_all_runs();
    const CommandResult check = job({"admin", "check"});
    EXPECT_EQ(check.exit_code, 0) << check.out << check.err;
    end_coordinator();
    check_invariants(invariants_, path("state"));
  }
  if (HasFailure()) {
    const std::string log = text("coordinator.jsonl");
    ADD_FAILURE() << "the end of the coordinator's log:\n"
                  << log.substr(log.size() > 6000 ? log.size() - 6000 : 0);
  }
  TrainingTest::TearDown();
}

void JobControlTest::end_all_runs() const {
  const auto listed = json({"runs", "list"});
  for (const auto& run : listed) {
    const std::string id = run["uid"];
    const std::string state = run["state"];
    if (state != "SUCCEEDED" && state != "FAILED" && state != "CANCELLED") {
      const CommandResult cancelled = job({"cancel", id, "--force", "--wait"});
      EXPECT_EQ(cancelled.exit_code, 0) << cancelled.err;
    }
    for (const pid_t pid : processes_of(id))
      ADD_FAILURE() << "process " << pid << " carries the tag of run " << id << ", which has ended";
  }
}

void JobControlTest::end_coordinator() {
  kill(coordinator_->pid(), SIGTERM);
  EXPECT_EQ(coordinator_->wait().exit_code, 0);
  coordinator_.reset();
}

void JobControlTest::start(const Arguments& more) {
  Arguments command = {binary(), "coordinator", "--config", path("coordinator.yaml").string()};
  command.insert(command.end(), more.begin(), more.end());
  CommandOptions options = command_options({});
  options.timeout = std::chrono::seconds(30);  // to end when it is told to
  coordinator_ = std::make_unique<Command>(command, options);
  ++starts_;
}

void JobControlTest::kill_coordinator() {
  kill(coordinator_->pid(), SIGKILL);
  coordinator_->wait();
}

bool JobControlTest::coordinator_ended() {
  return coordinator_ == nullptr || has_ended(coordinator_->pid());
}

std::unique_ptr<Command> JobControlTest::begin_job(Arguments arguments, int timeout_seconds) const {
  arguments.insert(arguments.begin(), binary());
  arguments.insert(arguments.end(), {"--patience", "60"});
  CommandOptions options = command_options({});
  options.timeout = std::chrono::seconds(timeout_seconds);
  return std::make_unique<Command>(arguments, options);
}

CommandResult JobControlTest::job(Arguments arguments, int timeout_seconds) const {
  return begin_job(std::move(arguments), timeout_seconds)->wait();
}

CommandResult JobControlTest::job_under_crashes(const Arguments& arguments,
                                                const Arguments& coordinator) {
  const std::unique_ptr<Command> command = begin_job(arguments);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(4);
  while (!has_ended(command->pid()) && std::chrono::steady_clock::now() < deadline) {
    if (coordinator_ended()) start(coordinator);
    std::this_thread::sleep_for(milliseconds(10));
  }
  return command->wait();
}

nlohmann::json JobControlTest::json(Arguments arguments) const {
  arguments.insert(arguments.end(), {"-o", "json"});
  const CommandResult result = job(arguments);
  if (result.exit_code != 0) {
    throw std::runtime_error(fmt::format("{} ended with {}\n{}", fmt::join(arguments, " "),
                                         result.exit_code, result.err));
  }
  return nlohmann::json::parse(result.out);
}

Arguments JobControlTest::submit_arguments(const std::string& output, const Arguments& more) const {
  Arguments arguments = {"submit", "config.yaml", "--set", "run.output=" + output, "-o", "name"};
  if (value_of(more, "--ranks").empty()) arguments.insert(arguments.end(), {"--ranks", "2"});
  if (value_of(more, "--request-id").empty()) {
    arguments.insert(arguments.end(), {"--request-id", new_request_id()});
  }
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

std::string JobControlTest::submit(const std::string& output, const Arguments& more) {
  const Arguments arguments = submit_arguments(output, more);
  return submitted(arguments, job(arguments));
}

std::string JobControlTest::submitted(const Arguments& arguments, const CommandResult& result) {
  constexpr std::size_t kPrefix = 5;  // "runs/"
  if (result.exit_code != 0 || !result.out.starts_with("runs/")) {
    throw std::runtime_error(
        fmt::format("submit ended with {}\n{}{}", result.exit_code, result.out, result.err));
  }
  const std::string run = result.out.substr(kPrefix, result.out.find('\n') - kPrefix);
  const std::string request = value_of(arguments, "--request-id");
  if (!request.empty()) invariants_.acknowledged("local", request, run);
  return run;
}

nlohmann::json JobControlTest::show(const std::string& run) const {
  return json({"runs", "show", run});
}

void JobControlTest::wait_for_state(const std::string& run, const std::string& wanted,
                                    int seconds) const {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  nlohmann::json last;
  do {
    last = show(run);
    if (last["state"] == wanted) return;
    std::this_thread::sleep_for(milliseconds(50));
  } while (std::chrono::steady_clock::now() < deadline);
  throw std::runtime_error(
      fmt::format("run {} is not {} after {} s: {}", run, wanted, seconds, last.dump()));
}

void JobControlTest::wait_for_step(const std::string& output, int step) const {
  for (int tries = 1; tries < 4; ++tries) {
    try {
      return TrainingTest::wait_for_step(output, step);
    } catch (const std::runtime_error&) {
      // Half a minute more.
    }
  }
  TrainingTest::wait_for_step(output, step);
}

std::vector<pid_t> JobControlTest::processes_of(const std::string& run) const {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid > 0 && environment_of(pid, "LOCKSTEP_ATTEMPT").starts_with(run)) found.push_back(pid);
  }
  return found;
}

pid_t JobControlTest::rank_of(const std::string& run, int rank) const {
  const std::vector<pid_t> training = processes_with("train");
  for (const pid_t pid : processes_of(run)) {
    const bool trains = std::find(training.begin(), training.end(), pid) != training.end();
    if (trains && environment_of(pid, "OMPI_COMM_WORLD_RANK") == std::to_string(rank)) return pid;
  }
  throw std::runtime_error(fmt::format("there is no process of rank {} of {}", rank, run));
}

}  // namespace lockstep::testing
