// The command line in this process: registration, unknown commands, errors into exit codes.
#include "launcher/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/error.h"

namespace lockstep::launcher {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Outcome {
  int exit_code;
  std::string out;
  std::string err;
};

// Runs `lockstep ARGUMENTS` with commands `train` and `data prepare`; `train` does `action`.
Outcome run(
    std::vector<const char*> arguments, const std::function<int()>& action = [] { return 0; }) {
  std::ostringstream out;
  std::ostringstream err;
  arguments.insert(arguments.begin(), "lockstep");
  CommandLine line(static_cast<int>(arguments.size()), arguments.data(), out, err);
  CLI::App* train = line.app().add_subcommand("train", "trains");
  std::vector<std::string> overrides;
  add_set_option(*train, overrides);
  set_action(*train, line.context(), action);
  CLI::App* data = line.app().add_subcommand("data", "tokens");
  data->require_subcommand(1);
  set_action(*data->add_subcommand("prepare", "prepares"), line.context(), [] { return 0; });
  const int exit_code = line.run();
  return {exit_code, out.str(), err.str()};
}

// An empty text is a value like any other: it swallows nothing that follows.
TEST(CommandLineTest, AnEmptyValueIsNotTheNextArgument) {
  struct Given {
    std::string notes = "default";
    std::string time = "default";
    bool hold = false;
    std::vector<std::string> rest{};
  };
  const auto parse = [](std::vector<const char*> arguments, int expected) {
    std::ostringstream out;
    std::ostringstream err;
    arguments.insert(arguments.begin(), {"lockstep", "submit"});
    CommandLine line(static_cast<int>(arguments.size()), arguments.data(), out, err);
    CLI::App* submit = line.app().add_subcommand("submit", "submits");
    Given given;
    submit->add_option("--notes", given.notes);
    submit->add_option("--time-limit", given.time)->check(not_empty());
    submit->add_flag("--hold", given.hold);
    submit->add_option("rest", given.rest);
    set_action(*submit, line.context(), [] { return 0; });
    EXPECT_EQ(line.run(), expected) << err.str();
    return given;
  };
  for (const bool joined : {true, false}) {
    const Given given =
        joined ? parse({"--notes=", "--hold", "x"}, 0) : parse({"--notes", "", "--hold", "x"}, 0);
    EXPECT_EQ(given.notes, "");
    EXPECT_TRUE(given.hold);
    EXPECT_EQ(given.rest, std::vector<std::string>{"x"});
  }
  EXPECT_EQ(parse({"--notes=a=", "--hold"}, 0).notes, "a=");
  EXPECT_EQ(parse({"--hold", "--", "--notes="}, 0).rest, std::vector<std::string>{"--notes="});
  // A time that is empty is not the default.
  parse({"--time-limit=", "--hold"}, 2);
  parse({"--time-limit", ""}, 2);
}

// Of two groups of arguments, wherever options stand between them.
TEST(CommandLineTest, CompareLearnsWhereItsGroupsPart) {
  std::ostringstream out;
  std::ostringstream err;
  const std::vector<const char*> arguments = {"lockstep", "compare", "a",  "-o",
                                              "json",     "b",       "--", "c"};
  CommandLine line(static_cast<int>(arguments.size()), arguments.data(), out, err);
  CLI::App* compare = line.app().add_subcommand("compare", "compares");
  std::vector<std::string> runs;
  OutputFormat format = OutputFormat::kTable;
  compare->add_option("runs", runs)->required();
  add_output_option(*compare, format);
  set_action(*compare, line.context(), [] { return 0; });
  EXPECT_EQ(line.run(), 0) << err.str();
  EXPECT_EQ(runs, (std::vector<std::string>{"a", "b", kGroupSeparator, "c"}));
  EXPECT_EQ(format, OutputFormat::kJson);
}

TEST(CommandLineTest, ErrorsBecomeTheExitCodeOfTheirKind) {
  for (const auto kind :
       {core::ErrorKind::kInternal, core::ErrorKind::kConfig, core::ErrorKind::kData,
        core::ErrorKind::kDiverged, core::ErrorKind::kCommunication, core::ErrorKind::kOutOfMemory,
        core::ErrorKind::kStopped}) {
    const Outcome outcome = run({"train"}, [kind]() -> int { throw core::Error(kind, "why"); });
    EXPECT_EQ(outcome.exit_code, static_cast<int>(kind));
    EXPECT_EQ(outcome.err, std::string("lockstep: ") + core::describe(kind) + ": why\n");
    EXPECT_EQ(outcome.out, "");
  }
  EXPECT_EQ(run({"train"}, []() -> int { throw std::bad_alloc(); }).exit_code, 6);
  EXPECT_EQ(run({"train"}, []() -> int { throw std::runtime_error("bug"); }).exit_code, 1);
  EXPECT_EQ(run({"train"}, [] { return 7; }).exit_code, 7);
}

TEST(CommandLineTest, LinesOfAMessageBeginWithTheirPlace) {
  const Outcome outcome = run({"train"}, []() -> int {
    throw core::Error(core::ErrorKind::kConfig, "c.yaml:1:2: a\nc.yaml:3:4: b");
  });
  EXPECT_THAT(outcome.err, HasSubstr("\nc.yaml:1:2: a\nc.yaml:3:4: b\n"));
}

TEST(CommandLineTest, UnknownCommandsNameTheNearest) {
  const Outcome outcome = run({"trian"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("unknown command 'trian'; did you mean 'train'?"),
                                 HasSubstr("train, data"), HasSubstr("lockstep --help")));
  EXPECT_THAT(run({"data", "prepair"}).err, HasSubstr("did you mean 'prepare'?"));
  EXPECT_THAT(run({"data"}).err, HasSubstr("one of: prepare"));
  EXPECT_EQ(run({}).exit_code, 2);
}

TEST(CommandLineTest, WrongOptionsExitWith2BeforeAnythingRuns) {
  const auto never = []() -> int { throw std::logic_error("ran"); };
  for (const std::vector<const char*>& arguments :
       {std::vector<const char*>{"train", "--sett", "a=b"},
        {"train", "extra"},
        {"train", "--set"}}) {
    const Outcome outcome = run(arguments, never);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.err, HasSubstr("lockstep train --help"));
  }
  EXPECT_THAT(run({"train", "--sett", "a=b"}).err, HasSubstr("did you mean '--set'?"));
}

TEST(CommandLineTest, HelpGoesToTheStandardOutput) {
  for (const std::vector<const char*>& arguments :
       {std::vector<const char*>{"--help"}, {"train", "--help"}, {"data", "prepare", "-h"}}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(outcome.out, HasSubstr("Usage:"));
    EXPECT_EQ(outcome.err, "");
  }
}

TEST(CommandLineTest, SetTakesOneValueEachTime) {
  std::ostringstream out;
  std::ostringstream err;
  const char* const arguments[] = {"lockstep", "train", "--set",   "a=1",
                                   "c.yaml",   "--set", "b=[1, 2]"};
  CommandLine line(7, arguments, out, err);
  CLI::App* train = line.app().add_subcommand("train", "trains");
  std::vector<std::string> overrides;
  std::string file;
  add_set_option(*train, overrides);
  train->add_option("file", file);
  set_action(*train, line.context(), [] { return 0; });
  EXPECT_EQ(line.run(), 0) << err.str();
  EXPECT_EQ(file, "c.yaml");
  EXPECT_THAT(overrides, ::testing::ElementsAre("a=1", "b=[1, 2]"));
}

}  // namespace
}  // namespace lockstep::launcher
