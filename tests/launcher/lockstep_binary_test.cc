// The built program as a user meets it: what goes where, and the exit code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "runtime/config/schema.h"

namespace lockstep::launcher {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Outcome {
  int exit_code;
  std::string out;
  std::string err;
};

std::string read(const fs::path& file) {
  std::ifstream stream(file);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

class LockstepBinaryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* binary = std::getenv("LOCKSTEP_BINARY");
    ASSERT_NE(binary, nullptr) << "set LOCKSTEP_BINARY, as ctest does";
    binary_ = binary;
    std::string pattern = ::testing::TempDir() + "/lockstep_binary_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  Outcome run(const std::string& arguments) {
    const std::string out = folder_ / "out";
    const std::string err = folder_ / "err";
    const std::string command = "cd '" + folder_.string() + "' && '" + binary_ + "' " + arguments +
                                " >" + out + " 2>" + err;
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(out), read(err)};
  }

  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }

  static constexpr const char* kGood =
      "model: {layers: 2, heads: 2, width: 64, context: 32, vocab: 256}\n"
      "data: {train: train.bin}\n"
      "batch: {global: 8, micro: 2}\n"
      "train: {steps: 100}\n"
      "optimizer: {learning_rate: 1e-3}\n";

  std::string binary_;
  fs::path folder_;
};

TEST_F(LockstepBinaryTest, ConfigCheckAcceptsAGoodFile) {
  write("good.yaml", kGood);
  const Outcome outcome = run("config check good.yaml");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, StartsWith("good.yaml: ok"));
  EXPECT_EQ(outcome.err, "");
  const auto json = nlohmann::json::parse(run("config check good.yaml --ranks 2 -o json").out);
  EXPECT_EQ(json["ok"], true);
  EXPECT_EQ(json["rounds"], 2);
}

TEST_F(LockstepBinaryTest, ConfigCheckShowsAResolvedFileThatChecksToo) {
  write("good.yaml", kGood);
  write("resolved.yaml", run("config check good.yaml --resolved").out);
  const auto fingerprint = [this](const std::string& file) {
    return nlohmann::json::parse(run("config check -o json " + file).out)["fingerprint"];
  };
  EXPECT_EQ(fingerprint("resolved.yaml"), fingerprint("good.yaml"));
  EXPECT_NE(fingerprint("good.yaml --set run.seed=3"), fingerprint("good.yaml"));
}

TEST_F(LockstepBinaryTest, ConfigCheckRefusesOnStderrWith2) {
  write("bad.yaml", std::string(kGood) + "clip: {treshold: 1}\n");
  write("good.yaml", kGood);
  const std::pair<const char*, const char*> rows[] = {
      {"config check bad.yaml", "bad.yaml:6:8: clip.treshold: unknown key; did you mean"},
      {"config check missing.yaml", "missing.yaml: cannot read the configuration: no such file"},
      {"config check good.yaml --set train.steps=0", "--set train.steps=0: train.steps: must be"},
      {"config check good.yaml --ranks 3", "rank counts that fit: 1, 2, 4"},
      {"config check good.yaml --ranks 0", "--ranks"},
      {"config check", "file is required"},
      {"config", "one of: check, defaults"},
      {"conifg check", "did you mean 'config'?"},
      {"version -o xml", "xml"},
      {"", "lockstep --help"},
  };
  for (const auto& [arguments, expected] : rows) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << arguments;
    EXPECT_THAT(outcome.err, HasSubstr(expected)) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
  }
}

TEST_F(LockstepBinaryTest, ConfigDefaultsListsEveryKey) {
  const Outcome outcome = run("config defaults");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.out, HasSubstr("overflow_patience: 8"));
  EXPECT_THAT(outcome.out, HasSubstr("# learning_rate:"));
  EXPECT_EQ(nlohmann::json::parse(run("config defaults -o json").out).size(),
            runtime::schema_keys().size());
}

TEST_F(LockstepBinaryTest, VersionTellsTheBuild) {
  const Outcome outcome = run("version");
  EXPECT_EQ(outcome.exit_code, 0);
  for (const char* name : {"commit", "flags", "instruction sets", "oneDNN", "Open MPI", "CUDA"}) {
    EXPECT_THAT(outcome.out, HasSubstr(name));
  }
  const auto json = nlohmann::json::parse(run("version -o json").out);
  EXPECT_THAT(run("--version").out, StartsWith(json["version"].get<std::string>()));
  EXPECT_TRUE(json["libraries"].contains("yaml-cpp"));
}

// Where there is no GPU, asking for one is refused before anything is written, with what was found.
TEST_F(LockstepBinaryTest, CudaWithoutADeviceIsRefusedWith2) {
  const auto version = nlohmann::json::parse(run("version -o json").out);
  const auto device = version["devices"].at(0).get<std::string>();
  if (!device.starts_with("none")) GTEST_SKIP() << "there is a device: " << device;
  write("good.yaml", kGood);
  const Outcome outcome = run("train good.yaml --set backend.device=cuda --set run.output=run");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("backend.device is cuda, and rank 0 finds none"),
                                 HasSubstr("backend.device: cpu")));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(LockstepBinaryTest, HelpIsDataAndExits0) {
  for (const char* arguments : {"--help", "config --help", "config check --help", "version -h"}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(outcome.out, HasSubstr("Usage: lockstep"));
    EXPECT_EQ(outcome.err, "");
  }
}

TEST_F(LockstepBinaryTest, AnOutputThatCannotBeWrittenIsAnError) {
  const std::string command =
      "'" + binary_ + "' version > /dev/full 2> '" + (folder_ / "err").string() + "'";
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1);
  EXPECT_THAT(read(folder_ / "err"), HasSubstr("cannot write to the standard output"));
}

}  // namespace
}  // namespace lockstep::launcher
