#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/run_command.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::testing {

enum class Launch { kRanksOption, kMpirun };

// One call of `lockstep train`.
struct TrainingCall {
  std::vector<std::string> set{};  // "path.to.key=value"; the last wins
  int ranks = 1;
  Launch launch = Launch::kRanksOption;  // at one rank kRanksOption is the plain command
  int threads = 1;                       // OMP_NUM_THREADS
  std::string output = "run";            // run.output, below the test's directory
  std::vector<std::string> more{};       // further arguments
  int timeout_seconds = 60;
};

// Runs the binary LOCKSTEP_BINARY in a directory of its own, which holds config.yaml (a tiny model)
// and tokens.bin (structured_tokens). After each test no process that was started here and no
// abandoned entry of /dev/shm may be left.
class TrainingTest : public ::testing::Test {
 protected:
  static constexpr int kVocabulary = 64;
  static constexpr int kContext = 16;

  void SetUp() override;
  void TearDown() override;

  std::filesystem::path path(const std::string& name) const { return directory_ / name; }
  std::string text(const std::string& name) const;
  void write_tokens(const std::string& name, const std::vector<std::uint16_t>& tokens) const;

  std::vector<std::string> command_line(const TrainingCall& call) const;
  CommandOptions command_options(const TrainingCall& call) const;
  CommandResult train(const TrainingCall& call) const;
  // The same, where all that follows needs it: throws, with what the command said, if its exit code
  // is not 0.
  void must_train(const TrainingCall& call) const;
  // Another subcommand: `lockstep ARGUMENTS...`.
  CommandResult lockstep(std::vector<std::string> arguments) const;

  // Of a run, by its TrainingCall::output.
  std::vector<nlohmann::ordered_json> metrics(const std::string& output,
                                              const std::string& event) const;
  // The lines of an event, byte for byte, without the two members that depend on time.
  std::vector<std::string> lines(const std::string& output, const std::string& event) const;
  std::vector<std::string> step_lines(const std::string& output) const {
    return lines(output, "step");
  }
  // Fails the test unless the `step` and `validation` lines, the ledger and the weights after
  // `steps` steps are those of run `expected`.
  void expect_same_run(const std::string& output, const std::string& expected, int steps) const;
  std::string model_bytes(const std::string& output, int step) const;
  std::string checkpoint_directory(const std::string& output, int step) const;
  // Waits until metrics.jsonl has the line of this step; throws after 30 s.
  void wait_for_step(const std::string& output, int step) const;
  // Waits until the log of rank 0 says `words`; throws after 30 s.
  void wait_for_log(const std::string& output, const std::string& words) const;

  // The process of a rank of the training that runs now, started with --ranks; throws if there is
  // none.
  pid_t rank_process(int rank) const;

  // Fails the test unless every process that was started here, and every entry of /dev/shm, is gone
  // within 5 s. Also done after each test.
  void expect_nothing_left() const;

  TemporaryDirectory directory_;

 private:
  std::vector<std::string> abandoned_shared_memory() const;

  std::string binary_;
  std::vector<std::string> shared_memory_before_;
};

// Text with a structure that a small model learns, but not to a loss of 0: arithmetic sequences
// modulo `vocabulary` of random start, stride and length.
std::vector<std::uint16_t> structured_tokens(int count, int vocabulary);

}  // namespace lockstep::testing
