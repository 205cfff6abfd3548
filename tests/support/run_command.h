#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace lockstep::testing {

struct CommandOptions {
  std::filesystem::path directory;                 // working directory; empty: this process's
  std::map<std::string, std::string> environment;  // beside, and instead of, this process's
  std::chrono::seconds timeout{60};                // then SIGTERM, then SIGKILL
};

struct CommandResult {
  int exit_code = -1;  // -1: ended by a signal
  int signal = 0;      // that ended it
  bool timed_out = false;
  std::string out;
  std::string err;
};

// A program that runs beside the test: started without a shell, as the leader of a process group,
// with nothing on stdin. It gets SIGTERM when the test dies.
class Command {
 public:
  // argv[0] is looked up in PATH. Throws std::system_error if no process can be started; a program
  // that is not there exits with 127.
  explicit Command(const std::vector<std::string>& argv, const CommandOptions& options = {});
  // Kills what is still running.
  ~Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  pid_t pid() const { return pid_; }
  // Waits until it has ended or its time is over; to be called once.
  CommandResult wait();

 private:
  bool ends_within(std::chrono::milliseconds time);
  void end();

  pid_t pid_ = -1;
  int out_ = -1;  // memfd
  int err_ = -1;
  bool ended_ = false;
  int status_ = 0;  // as waitpid gave it
  std::chrono::steady_clock::time_point deadline_;
};

CommandResult run_command(const std::vector<std::string>& argv, const CommandOptions& options = {});

// The processes, except zombies and this one, with `text` in their command line.
std::vector<pid_t> processes_with(const std::string& text);

// The value of a variable in a process's environment; empty when it has none.
std::string environment_of(pid_t process, const std::string& name);

}  // namespace lockstep::testing
