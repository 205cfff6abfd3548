#include "tests/support/training_test.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace lockstep::testing {

namespace fs = std::filesystem;

namespace {

constexpr std::chrono::seconds kLeaveTime{5};  // for what is being taken down as a command returns

constexpr const char* kConfig = R"(
run: {seed: 7}
model: {layers: 2, heads: 2, width: 32, context: 16, vocab: 64}
data: {train: tokens.bin, validation: tokens.bin}
batch: {global: 24, micro: 1}
train: {steps: 20}
optimizer: {learning_rate: 1e-2}
schedule: {warmup_steps: 5}
)";

std::vector<std::string> shared_memory() {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/dev/shm", ignored)) {
    // A shared memory object is a file; a folder is another program's.
    if (entry.is_regular_file(ignored)) names.push_back(entry.path());
  }
  return names;
}

bool mapped_by_somebody(const std::string& file) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    if (std::atoi(entry.path().filename().c_str()) <= 0) continue;
    // Formatted, since reading the maps of a process that has just ended is an error.
    std::ostringstream maps;
    maps << std::ifstream(entry.path() / "maps").rdbuf();
    if (maps.str().find(file) != std::string::npos) return true;
  }
  return false;
}

template <typename Condition>
bool holds_within(std::chrono::milliseconds time, const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + time;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace

std::vector<std::uint16_t> structured_tokens(int count, int vocabulary) {
  std::mt19937 random(20240229);
  const auto below = [&](int limit) {
    return static_cast<int>(random() % static_cast<std::uint32_t>(limit));
  };
  std::vector<std::uint16_t> tokens;
  while (tokens.size() < static_cast<std::size_t>(count)) {
    const int stride = 1 + 2 * below(3);
    int value = below(vocabulary);
    for (int left = 8 + below(12); left > 0; --left) {
      tokens.push_back(static_cast<std::uint16_t>(value));
      value = (value + stride) % vocabulary;
    }
  }
  tokens.resize(static_cast<std::size_t>(count));
  return tokens;
}

void TrainingTest::SetUp() {
  const char* binary = std::getenv("LOCKSTEP_BINARY");
  ASSERT_NE(binary, nullptr) << "set LOCKSTEP_BINARY, as ctest does";
  binary_ = binary;
  shared_memory_before_ = shared_memory();
  directory_.write("config.yaml", kConfig);
  write_tokens("tokens.bin", structured_tokens(6000, kVocabulary));
}

void TrainingTest::TearDown() {
  expect_nothing_left();
}

void TrainingTest::expect_nothing_left() const {
  const std::string name = directory_.path().string();
  holds_within(kLeaveTime, [&] { return processes_with(name).empty(); });
  for (const pid_t pid : processes_with(name)) {
    ADD_FAILURE() << "process " << pid
                  << " was left behind: " << read_file(fmt::format("/proc/{}/cmdline", pid));
  }
  holds_within(kLeaveTime, [&] { return abandoned_shared_memory().empty(); });
  for (const std::string& file : abandoned_shared_memory()) {
    ADD_FAILURE() << file << " was left behind";
  }
}

// New entries that no process has mapped: other programs of this machine may be at work too.
std::vector<std::string> TrainingTest::abandoned_shared_memory() const {
  std::vector<std::string> names = shared_memory();
  std::erase_if(names, [&](const std::string& name) {
    return std::find(shared_memory_before_.begin(), shared_memory_before_.end(), name) !=
               shared_memory_before_.end() ||
           mapped_by_somebody(name) || !fs::exists(name);
  });
  return names;
}

std::string TrainingTest::text(const std::string& name) const {
  return read_file(path(name));
}

void TrainingTest::write_tokens(const std::string& name,
                                const std::vector<std::uint16_t>& tokens) const {
  directory_.write(name, std::string(reinterpret_cast<const char*>(tokens.data()),
                                     tokens.size() * sizeof(std::uint16_t)));
}

std::vector<std::string> TrainingTest::command_line(const TrainingCall& call) const {
  std::vector<std::string> command;
  if (call.launch == Launch::kMpirun) {
    command = {"mpirun",
               "-np",
               std::to_string(call.ranks),
               "--oversubscribe",
               "--bind-to",
               "none",
               "--mca",
               "mpi_yield_when_idle",
               "1"};
    if (geteuid() == 0) command.emplace_back("--allow-run-as-root");
  }
  command.insert(command.end(), {binary_, "train", path("config.yaml").string()});
  command.insert(command.end(), {"--set", "run.output=" + call.output});
  for (const std::string& set : call.set)
    command.insert(command.end(), {"--set", set});
  if (call.launch == Launch::kRanksOption && call.ranks > 1) {
    command.insert(command.end(), {"--ranks", std::to_string(call.ranks)});
  }
  command.insert(command.end(), call.more.begin(), call.more.end());
  return command;
}

CommandOptions TrainingTest::command_options(const TrainingCall& call) const {
  CommandOptions options;
  options.directory = directory_.path();
  // The last two keep mpirun 4 and 5 from writing of ranks that fail.
  options.environment = {{"OMP_NUM_THREADS", std::to_string(call.threads)},
                         {"OMP_WAIT_POLICY", "passive"},
                         {"OMPI_MCA_orte_execute_quiet", "1"},
                         {"PRTE_MCA_prte_execute_quiet", "1"}};
  options.timeout = std::chrono::seconds(call.timeout_seconds);
  return options;
}

CommandResult TrainingTest::train(const TrainingCall& call) const {
  return run_command(command_line(call), command_options(call));
}

void TrainingTest::must_train(const TrainingCall& call) const {
  const CommandResult result = train(call);
  if (result.exit_code == 0) return;
  throw std::runtime_error(fmt::format("{}\nended with {}\n{}", fmt::join(command_line(call), " "),
                                       result.exit_code, result.err));
}

CommandResult TrainingTest::lockstep(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), binary_);
  return run_command(arguments, command_options({}));
}

std::vector<nlohmann::ordered_json> TrainingTest::metrics(const std::string& output,
                                                          const std::string& event) const {
  std::vector<nlohmann::ordered_json> found;
  std::istringstream lines(text(output + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::ordered_json::parse(line);
    if (json["event"] == event) found.push_back(std::move(json));
  }
  return found;
}

std::vector<std::string> TrainingTest::lines(const std::string& output,
                                             const std::string& event) const {
  const std::string mark = fmt::format(R"({{"event":"{}",)", event);
  std::vector<std::string> found;
  std::istringstream lines(text(output + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(mark)) continue;
    for (const char* timed : {R"("tokens_per_second":)", R"("step_seconds":)"}) {
      const std::size_t begin = line.find(timed);
      if (begin == std::string::npos) continue;
      line.erase(begin, line.find_first_of(",}", begin) - begin);
    }
    found.push_back(line);
  }
  return found;
}

void TrainingTest::expect_same_run(const std::string& output, const std::string& expected,
                                   int steps) const {
  ASSERT_EQ(step_lines(expected).size(), static_cast<std::size_t>(steps));
  EXPECT_EQ(step_lines(output), step_lines(expected));
  EXPECT_EQ(lines(output, "validation"), lines(expected, "validation"));
  EXPECT_TRUE(text(output + "/ledger.jsonl") == text(expected + "/ledger.jsonl"));
  const std::string weights = model_bytes(expected, steps);
  EXPECT_FALSE(weights.empty());
  EXPECT_TRUE(model_bytes(output, steps) == weights);
}

std::string TrainingTest::checkpoint_directory(const std::string& output, int step) const {
  return (path(output) / "checkpoints" / fmt::format("step-{:08}", step)).string();
}

std::string TrainingTest::model_bytes(const std::string& output, int step) const {
  return read_file(checkpoint_directory(output, step) + "/model.safetensors");
}

void TrainingTest::wait_for_step(const std::string& output, int step) const {
  const std::string mark = fmt::format(R"({{"event":"step","step":{},)", step);
  const bool reached = holds_within(std::chrono::seconds(30), [&] {
    return text(output + "/metrics.jsonl").find(mark) != std::string::npos;
  });
  if (!reached) throw std::runtime_error(fmt::format("{} never reached step {}", output, step));
}

void TrainingTest::wait_for_log(const std::string& output, const std::string& words) const {
  const bool said = holds_within(std::chrono::seconds(30), [&] {
    return text(output + "/logs/rank-0000.log").find(words) != std::string::npos;
  });
  if (!said) throw std::runtime_error(fmt::format("{} never said \"{}\"", output, words));
}

pid_t TrainingTest::rank_process(int rank) const {
  for (const pid_t pid : processes_with(path("config.yaml").string())) {
    if (environment_of(pid, "OMPI_COMM_WORLD_RANK") == std::to_string(rank)) return pid;
  }
  throw std::runtime_error(fmt::format("there is no process of rank {}", rank));
}

}  // namespace lockstep::testing
