#include "launcher/commands/sample_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "launcher/command_line.h"
#include "tests/support/tiny_checkpoint.h"

namespace lockstep::launcher {
namespace {

using lockstep::testing::TinyCheckpoint;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Outcome {
  int code = 0;
  std::string out;
  std::string err;
};

Outcome run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"lockstep", "sample"});
  std::vector<const char*> argv;
  for (const std::string& argument : arguments)
    argv.push_back(argument.c_str());
  std::ostringstream out;
  std::ostringstream err;
  CommandLine line(static_cast<int>(argv.size()), argv.data(), out, err);
  add_sample_command(line.app(), line.context());
  const int code = line.run();
  return {code, out.str(), err.str()};
}

TEST(SampleCommand, PrintsPromptAndText) {
  const TinyCheckpoint checkpoint;
  const std::vector<std::string> arguments = {"--checkpoint", checkpoint.path(), "--prompt",
                                              "In the",       "--tokens",        "8"};
  const Outcome first = run(arguments);
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(first.err, "");
  EXPECT_THAT(first.out, StartsWith("In the"));
  EXPECT_EQ(first.out.back(), '\n');
  EXPECT_GE(first.out.size(), 8 + std::string("In the\n").size());
  EXPECT_EQ(run(arguments).out, first.out);
  std::vector<std::string> other = arguments;
  other.insert(other.end(), {"--seed", "2"});
  EXPECT_NE(run(other).out, first.out);
}

TEST(SampleCommand, ContinuesEachPromptOnItsOwn) {
  const TinyCheckpoint checkpoint;
  const auto text = [&](const std::vector<std::string>& prompts) {
    std::vector<std::string> arguments = {"--checkpoint", checkpoint.path(), "--tokens", "40"};
    arguments.insert(arguments.end(), prompts.begin(), prompts.end());
    return run(arguments).out;
  };
  const std::string first = text({"--prompt", "In the"});
  const std::string second = text({"--prompt", "b"});
  EXPECT_EQ(text({"--prompt", "In the", "--prompt", "b"}), first + "---\n" + second);
  EXPECT_EQ(text({"--prompt", "b", "--no-cache"}), second);
  EXPECT_NE(text({"--prompt", "b", "--top-p", "0.01"}), second);
}

TEST(SampleCommand, TakesTheOutputOfARun) {
  const TinyCheckpoint checkpoint;
  const auto text = [](const std::string& path) {
    return run({"--checkpoint", path, "--prompt", "a", "--tokens", "5"}).out;
  };
  EXPECT_THAT(text(checkpoint.output()), StartsWith("a"));
  EXPECT_EQ(text(checkpoint.output()), text(checkpoint.path()));
}

TEST(SampleCommand, TopKOfOneEqualsTemperatureZero) {
  const TinyCheckpoint checkpoint;
  const auto text = [&](const std::string& option, const std::string& value) {
    return run({"--checkpoint", checkpoint.path(), "--prompt-ids", "1,2", option, value}).out;
  };
  EXPECT_THAT(text("--top-k", "1"), StartsWith("1,2,"));
  EXPECT_EQ(text("--top-k", "1"), text("--temperature", "0"));
  EXPECT_NE(text("--top-k", "1"), text("--top-k", "9"));
}

TEST(SampleCommand, PrintsIdsForIds) {
  const TinyCheckpoint checkpoint({}, "");
  const Outcome outcome =
      run({"--checkpoint", checkpoint.path(), "--prompt-ids", "7,8", "--tokens", "3"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, StartsWith("7,8,"));
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), ','), 4);
}

TEST(SampleCommand, TellsThatALongPromptIsCut) {
  const TinyCheckpoint checkpoint;
  const std::string prompt(20, 'x');
  const Outcome outcome =
      run({"--checkpoint", checkpoint.path(), "--prompt", prompt, "--tokens", "1"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, StartsWith(prompt));
  EXPECT_THAT(outcome.err, HasSubstr("20 tokens; the model sees the last 12, of a context of 16"));
}

TEST(SampleCommand, FailsWithTheFixedExitCodes) {
  const TinyCheckpoint checkpoint;
  const TinyCheckpoint bare({}, "");
  const TinyCheckpoint small({"model.vocab=100"});
  const TinyCheckpoint torn;
  std::filesystem::resize_file(torn.path() + "/model.safetensors", 100);
  struct Case {
    std::vector<std::string> arguments;
    int code;
    const char* message;
  };
  const std::vector<Case> table = {
      {{"--prompt", "a"}, 2, "--checkpoint"},
      {{"--checkpoint", checkpoint.path()}, 2, "--prompt"},
      {{"--checkpoint", checkpoint.path(), "--prompt", "a", "--prompt-ids", "1"}, 2, "prompt"},
      {{"--checkpoint", checkpoint.path(), "--prompt-ids", "1,,2"}, 2, "found '' as number 2"},
      {{"--checkpoint", checkpoint.path(), "--prompt-ids", "1,x"}, 2, "found 'x' as number 2"},
      {{"--prompt", "a"}, 2, "--checkpoint is required\nSee"},
      {{"--checkpoint", checkpoint.path(), "--prompt", ""}, 2, "at least one token"},
      {{"--checkpoint", checkpoint.path(), "--prompt", "a", "--tokens", "0"}, 2, "--tokens"},
      {{"--checkpoint", checkpoint.path(), "--prompt", "a", "--top-k", "-1"}, 2, "--top-k"},
      {{"--checkpoint", checkpoint.path(), "--prompt", "a", "--temperature", "-1"},
       2,
       "--temperature"},
      {{"--checkpoint", checkpoint.path(), "--prompt", "a", "--temperature", "nan"},
       2,
       "--temperature"},
      {{"--checkpoint", small.path(), "--prompt", "z"}, 2, "[0, 100)"},
      {{"--checkpoint", bare.path(), "--prompt", "a"}, 3, "--prompt-ids"},
      {{"--checkpoint", torn.path(), "--prompt", "a"}, 3, "torn or altered"},
      {{"--checkpoint", torn.output(), "--prompt", "a"}, 3, "found none"},
      {{"--checkpoint", checkpoint.path() + "9", "--prompt", "a"}, 3, "found nothing"},
  };
  for (const Case& bad : table) {
    const Outcome outcome = run(bad.arguments);
    EXPECT_EQ(outcome.code, bad.code) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(bad.message));
    EXPECT_EQ(outcome.out, "") << bad.message;
  }
}

}  // namespace
}  // namespace lockstep::launcher
