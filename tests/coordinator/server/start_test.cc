// S1: where `lockstep coordinator` listens, and where it refuses to.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "coordinator/store/store.h"
#include "tests/coordinator/engine/invariants.h"
#include "tests/support/run_command.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::coordinator {
namespace {

using ::lockstep::testing::Command;
using ::lockstep::testing::CommandOptions;
using ::lockstep::testing::CommandResult;
using ::lockstep::testing::run_command;
using ::lockstep::testing::TemporaryDirectory;
using ::testing::HasSubstr;

std::vector<std::string> arguments(const std::vector<std::string>& more) {
  std::vector<std::string> all = {std::getenv("LOCKSTEP_BINARY"), "coordinator"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

class S1_Listening : public ::testing::Test {
 protected:
  S1_Listening() {
    std::filesystem::create_directory(directory_ / "private");
    std::filesystem::permissions(directory_ / "private", std::filesystem::perms::owner_all);
    options_.environment = {{"HOME", directory_.path()},
                            {"XDG_RUNTIME_DIR", (directory_ / "private").string()}};
  }

  // Whatever was refused or taken over, its stores are as they should be.
  void TearDown() override {
    for (const auto& state : {directory_ / "state", directory_ / ".local/state/lockstep"}) {
      if (!std::filesystem::exists(state / "store.db")) continue;
      Store store(state);
      testing::Invariants().check(store, {});
    }
  }

  std::string file(const std::string& text) {
    return directory_
        .write("coordinator.yaml",
               "state_directory: " + (directory_ / "state").string() + "\n" + text)
        .string();
  }

  CommandResult refused(const std::string& text, const std::vector<std::string>& more = {}) {
    std::vector<std::string> command = arguments({"--config", file(text)});
    command.insert(command.end(), more.begin(), more.end());
    const CommandResult result = run_command(command, options_);
    EXPECT_EQ(result.exit_code, 2) << text << result.err;
    return result;
  }

  static bool exists_within(const std::filesystem::path& path) {
    for (int i = 0; i < 1000; ++i) {
      if (std::filesystem::exists(path)) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  TemporaryDirectory directory_;
  CommandOptions options_;
};

TEST_F(S1_Listening, RefusesWhatWouldLetOthersIn) {
  EXPECT_THAT(refused("listen: ['0.0.0.0:0']\n").err, HasSubstr("tls"));
  EXPECT_THAT(refused("listen: ['[::]:7070']\n").err, HasSubstr("tls"));
  EXPECT_THAT(refused("", {"--address", "0.0.0.0:0"}).err, HasSubstr("tls"));
  EXPECT_THAT(refused("listen: ['127.0.0.1:0']\n").err, HasSubstr("token"));
  EXPECT_THAT(refused("listen: ['localhost:0']\n").err, HasSubstr("token"));
  EXPECT_THAT(refused("listen: [nonsense]\n").err, HasSubstr("listen"));
  std::filesystem::create_directory(directory_ / "open");
  std::filesystem::permissions(directory_ / "open", std::filesystem::perms(0755));
  EXPECT_THAT(refused("listen: ['unix:" + (directory_ / "open").string() + "/s']\n").err,
              HasSubstr("0700"));
  directory_.write("private/taken", "no socket");
  EXPECT_THAT(refused("listen: ['unix:" + (directory_ / "private").string() + "/taken']\n").err,
              HasSubstr("no socket"));
}

TEST_F(S1_Listening, ByDefaultOnASocketThatOnlyThisUserCanReach) {
  const std::filesystem::path socket = directory_ / "private" / "lockstep" / "coordinator.sock";
  Command coordinator(arguments({}), options_);
  ASSERT_TRUE(exists_within(socket));
  struct stat info {};
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(::stat(socket.c_str(), &info), 0);
    if ((info.st_mode & 0777) == 0600) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat(socket.parent_path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  EXPECT_EQ(info.st_uid, ::geteuid());

  // A second one on the same socket is refused, and leaves the first alone.
  TemporaryDirectory other;
  options_.environment["HOME"] = other.path();
  const CommandResult second = run_command(arguments({}), options_);
  EXPECT_EQ(second.exit_code, 2);
  EXPECT_THAT(second.err, HasSubstr("another"));
  ASSERT_TRUE(std::filesystem::exists(socket));

  if (::geteuid() == 0) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(3);
      const int client = ::socket(AF_UNIX, SOCK_STREAM, 0);
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      std::strncpy(address.sun_path, socket.c_str(), sizeof(address.sun_path) - 1);
      const auto* generic = reinterpret_cast<const sockaddr*>(&address);
      ::_exit(::connect(client, generic, sizeof(address)) == 0 ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(WEXITSTATUS(status), 0) << "another user could connect";
  }

  ::kill(coordinator.pid(), SIGTERM);
  const CommandResult end = coordinator.wait();
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_THAT(end.out, HasSubstr("listening on unix:" + socket.string()));
  EXPECT_FALSE(std::filesystem::exists(socket));
}

TEST_F(S1_Listening, ASocketThatADeadOneLeftIsTakenOver) {
  const std::filesystem::path socket = directory_ / "private" / "s";
  const std::string config = file("listen: ['unix:" + socket.string() + "']\n");
  {
    Command coordinator(arguments({"--config", config}), options_);
    ASSERT_TRUE(exists_within(socket));
    ::kill(coordinator.pid(), SIGKILL);
    coordinator.wait();
  }
  ASSERT_TRUE(std::filesystem::exists(socket));
  Command coordinator(arguments({"--config", config}), options_);
  for (int i = 0; i < 1000; ++i) {
    const CommandResult info = run_command(
        {std::getenv("LOCKSTEP_BINARY"), "admin", "info", "--address", "unix:" + socket.string()},
        options_);
    if (info.exit_code == 0) break;
    ASSERT_LT(i, 20);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  ::kill(coordinator.pid(), SIGTERM);
  EXPECT_EQ(coordinator.wait().exit_code, 0);
}

}  // namespace
}  // namespace lockstep::coordinator
