// The commands that the README shows for a coordinator, as they stand there, with the
// configurations that it names: only the training is shorter.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <sstream>

#include "tests/coordinator/system/job_control_test.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ContainerEq;
using ::testing::HasSubstr;
using ::testing::Not;

struct Shown {
  const char* document;
  const char* heading;  // its first block of commands is run
};
constexpr Shown kReadme = {"README.md", "## Runs submitted to a coordinator"};
constexpr Shown kJobControl = {"docs/job_control.md", "# Job control"};
constexpr const char* kSubmit = "submit configs/quickstart.yaml --ranks 2";
constexpr int kSteps = 30;

class Readme : public TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    const fs::path source = std::getenv("LOCKSTEP_SOURCE_DIR");
    source_ = source;
    fs::create_directories(path("configs"));
    for (const char* name : {"quickstart.yaml", "coordinator.yaml"})
      fs::copy_file(source / "configs" / name, path("configs") / name);
    fs::create_directories(path("runtime"));
    fs::permissions(path("runtime"), fs::perms::owner_all);
    for (const char* name : {"LOCKSTEP_ADDRESS", "LOCKSTEP_TOKEN", "LOCKSTEP_TOKEN_FILE"})
      unsetenv(name);
    // As scripts/quickstart prepares it, of another text.
    std::string text;
    for (int i = 0; i < 4000; ++i)
      text += fmt::format("And in verse {} of {} they said {} times what was said\n", i, i % 50,
                          i * 7 % 13);
    directory_.write("text.txt", text);
    const CommandResult prepared = as_user(
        "lockstep data prepare --input text.txt --output data/quickstart --tokenizer bytes "
        "--validation-fraction 0.1");
    ASSERT_EQ(prepared.exit_code, 0) << prepared.err;
    // The quickstart has trained.
    const CommandResult trained = as_user(
        "lockstep train configs/quickstart.yaml --set train.steps=2 --set schedule.warmup_steps=1");
    ASSERT_EQ(trained.exit_code, 0) << trained.err;
  }

  // In a shell of a user who has `lockstep` in PATH and nothing else set.
  CommandResult as_user(const std::string& script) const {
    CommandOptions options;
    options.directory = directory_.path();
    options.environment = {
        {"HOME", directory_.path()},
        {"XDG_RUNTIME_DIR", path("runtime")},
        {"OMP_WAIT_POLICY", "passive"},
        {"PATH", fs::path(std::getenv("LOCKSTEP_BINARY")).parent_path().string() + ":" +
                     std::getenv("PATH")}};
    options.timeout = std::chrono::seconds(500);
    return run_command({"bash", "-c", script}, options);
  }

  std::vector<std::string> shown_commands(const Shown& shown) const {
    const std::string document = read_file(source_ / shown.document);
    std::istringstream rest(document.substr(document.find(shown.heading) + 1));
    std::vector<std::string> commands;
    for (std::string line; std::getline(rest, line) && !line.starts_with("## ");) {
      if (line.starts_with("    ")) commands.push_back(line.substr(4));
    }
    return commands;
  }
  // Runs them; the exit code of each by its beginning.
  std::map<std::string, std::string> run_shown(const Shown& shown);

  fs::path source_;
  std::string all_;  // what the commands said
};

// Each command leaves its exit code and itself in a line of codes.txt. Who follows logs sees a step
// before the rest is typed into another terminal.
std::string script_of(const std::vector<std::string>& commands) {
  const std::string shorter = fmt::format(
      " --set train.steps={} --set schedule.warmup_steps=3 --set train.validate_every=10", kSteps);
  std::string script;
  for (std::string command : commands) {
    const std::string done = fmt::format("echo \"$? {}\" >> codes.txt",
                                         command.substr(0, command.find_first_of("$#(\"")));
    if (const std::size_t at = command.find(kSubmit); at != std::string::npos) {
      command.insert(at + std::string(kSubmit).size(), shorter);
    }
    if (command.starts_with("lockstep coordinator")) {
      script += command + "\ncoordinator=$!\n";
    } else if (command.find("logs -f") != std::string::npos) {
      script += "(" + command + "\n" + done + ") > followed.txt 2>&1 &\nfollower=$!\n" +
                "until grep -q 'step 1/' followed.txt; do sleep 0.1; done\n";
    } else {
      script += command + "\n" + done + "\n";
    }
  }
  return script +
         "[ -z \"${other:-}\" ] || { lockstep wait $other; echo \"$? other\" >> codes.txt; }\n"
         "wait $follower\n"
         "kill $coordinator; wait $coordinator; echo \"$? coordinator\" >> codes.txt\n";
}

std::map<std::string, std::string> Readme::run_shown(const Shown& shown) {
  const std::vector<std::string> commands = shown_commands(shown);
  EXPECT_FALSE(commands.empty());
  const CommandResult session = as_user(script_of(commands));
  all_ = session.out + session.err + text("followed.txt") + text("codes.txt");
  EXPECT_FALSE(session.timed_out) << all_ << text("coordinator.log");
  std::map<std::string, std::string> codes;
  std::istringstream lines(text("codes.txt"));
  for (std::string code, what; lines >> code && std::getline(lines, what);)
    codes[what.substr(1, what.find_last_not_of(' '))] = code;
  EXPECT_THAT(text("followed.txt"), HasSubstr(fmt::format("step {}/{}", kSteps, kSteps)));
  EXPECT_THAT(text("followed.txt"), HasSubstr("attempt 2 begins")) << "it was paused and resumed";
  EXPECT_THAT(text("followed.txt"), HasSubstr("SUCCEEDED"));
  EXPECT_THAT(text("followed.txt"), Not(HasSubstr("[mpirun]"))) << "nothing went wrong";
  EXPECT_EQ(metrics("runs/submitted", "step").size(), static_cast<std::size_t>(kSteps));
  coordinator::testing::Invariants invariants;
  check_invariants(invariants, path(".local/state/lockstep"));
  return codes;
}

TEST_F(Readme, ItsCommandsDoWhatItSays) {
  const std::map<std::string, std::string> codes = run_shown(kReadme);
  const std::map<std::string, std::string> expected = {{"id=", "0"},
                                                       {"lockstep logs -f", "0"},
                                                       {"lockstep checkpoint", "0"},
                                                       {"lockstep pause", "0"},
                                                       {"other=", "0"},
                                                       {"lockstep cancel", "0"},
                                                       {"lockstep runs list", "0"},
                                                       {"lockstep explain", "0"},
                                                       {"lockstep wait", "0"},
                                                       {"other", "3"},
                                                       {"coordinator", "0"}};
  EXPECT_THAT(codes, ContainerEq(expected)) << all_ << text("coordinator.log");
  EXPECT_THAT(all_, HasSubstr("CANCELLED"));
}

TEST_F(Readme, TheFirstExampleOfJobControlWorksAfterTheQuickstart) {
  const std::map<std::string, std::string> codes = run_shown(kJobControl);
  const std::map<std::string, std::string> expected = {{"id=", "0"},
                                                       {"lockstep logs -f", "0"},
                                                       {"lockstep checkpoint", "0"},
                                                       {"lockstep pause", "0"},
                                                       {"lockstep resume", "0"},
                                                       {"lockstep wait", "0"},
                                                       {"coordinator", "0"}};
  EXPECT_THAT(codes, ContainerEq(expected)) << all_ << text("coordinator.log");
}

}  // namespace
}  // namespace lockstep::testing
