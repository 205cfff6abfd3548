#include "launcher/commands/data_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "launcher/command_line.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::launcher {
namespace {

using lockstep::testing::TemporaryDirectory;
using ::testing::HasSubstr;

struct Outcome {
  int code = 0;
  std::string out;
  std::string err;
};

Outcome run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"lockstep", "data"});
  std::vector<const char*> argv;
  for (const std::string& argument : arguments)
    argv.push_back(argument.c_str());
  std::ostringstream out;
  std::ostringstream err;
  CommandLine line(static_cast<int>(argv.size()), argv.data(), out, err);
  add_data_command(line.app(), line.context());
  const int code = line.run();
  return {code, out.str(), err.str()};
}

TEST(DataCommand, PreparesAndDescribes) {
  const TemporaryDirectory dir;
  const std::string input = dir.write("in.txt", "abcd\nefgh\nijkl\nmnop\nqrst\n").string();
  const std::string output = (dir / "out").string();
  const std::vector<std::string> prepare = {
      "prepare", "--input", input, "--output", output, "--validation-fraction", "0.2"};
  const Outcome first = run(prepare);
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_THAT(first.out, HasSubstr("20 tokens to train on, 5 to validate on, vocabulary 256"));
  EXPECT_THAT(run(prepare).out, HasSubstr("unchanged"));

  const Outcome info = run({"info", output, "--context", "4", "-o", "json"});
  EXPECT_EQ(info.code, 0) << info.err;
  const auto files = nlohmann::json::parse(info.out)["files"];
  ASSERT_EQ(files.size(), 2U);
  EXPECT_EQ(files[0]["format"], "prepared");
  EXPECT_EQ(files[0]["tokens"], 20);
  EXPECT_EQ(files[0]["smallest_id"], '\n');
  EXPECT_EQ(files[0]["largest_id"], 'p');
  EXPECT_EQ(files[0]["sequences"], 4);
  EXPECT_EQ(files[0]["tokenizer"]["type"], "bytes");
  EXPECT_EQ(files[1]["tokens"], 5);
  EXPECT_THAT(run({"info", output}).out, HasSubstr("largest_id   112"));
}

TEST(DataCommand, DescribesRawFilesByTokenType) {
  const TemporaryDirectory dir;
  const std::string raw = dir.write("raw.bin", std::string("\x01\x00\x00\x00\x02\x00\x01\x00", 8));
  const auto tokens = [&](const std::string& type) {
    const Outcome info = run({"info", raw, "--token-type", type, "-o", "json"});
    return nlohmann::json::parse(info.out)["files"][0];
  };
  EXPECT_EQ(tokens("uint16")["tokens"], 4);
  EXPECT_EQ(tokens("uint32")["tokens"], 2);
  EXPECT_EQ(tokens("uint32")["largest_id"], 65538);
}

TEST(DataCommand, FailsWithTheFixedExitCodes) {
  const TemporaryDirectory dir;
  const std::string text = dir.write("in.txt", "a\nb\nc\n").string();
  const std::string odd = dir.write("odd.bin", "abc").string();
  const std::string out = (dir / "out").string();
  struct Case {
    std::vector<std::string> arguments;
    int code;
    const char* message;
  };
  const std::vector<Case> table = {
      {{"info", odd}, 3, "multiple of 2"},
      {{"info", (dir / "missing").string()}, 3, "nothing there"},
      {{"info", text, "--token-type", "uint8"}, 2, "uint8"},
      {{"info", text, "--context", "0"}, 2, "context"},
      {{"info"}, 2, "path"},
      {{"prepare", "--input", text}, 2, "--output"},
      {{"prepare", "--output", out}, 2, "--input"},
      {{"prepare", "--input", out, "--output", out + "2"}, 3, "No such file"},
      {{"prepare", "--input", text, "--output", out, "--tokenizer", "bpe:" + out + "x"}, 3, "outx"},
      {{"prepare", "--input", text, "--output", out, "--tokenizer", "sentencepiece:m"},
       2,
       "not been built"},
      {{"prepare", "--input", text, "--output", out, "--validation-fraction", "1"}, 2, "[0, 1)"},
      {{"prepare", "--input", text, "--output", dir.path().string()}, 2, "--force"},
  };
  for (const Case& bad : table) {
    const Outcome outcome = run(bad.arguments);
    EXPECT_EQ(outcome.code, bad.code) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(bad.message));
    EXPECT_EQ(outcome.out, "");
  }
}

}  // namespace
}  // namespace lockstep::launcher
