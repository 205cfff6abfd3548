#include "tests/support/run_command.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>

namespace lockstep::testing {

namespace {

constexpr int kCannotExecute = 127;
constexpr std::chrono::milliseconds kPoll{2};
constexpr std::chrono::seconds kGrace{5};  // between SIGTERM and SIGKILL

// A pipe would have to be drained meanwhile, and would hang on a grandchild that keeps it open.
int memory_file(const char* name) {
  const int file = memfd_create(name, MFD_CLOEXEC);
  if (file < 0) throw std::system_error(errno, std::generic_category(), "memfd_create");
  return file;
}

std::string contents(int file) {
  std::string text(static_cast<std::size_t>(lseek(file, 0, SEEK_END)), '\0');
  const ssize_t count = pread(file, text.data(), text.size(), 0);
  text.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
  return text;
}

// Of a file of /proc, which is empty once its process has ended: that may happen in the middle.
std::string file_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

[[noreturn]] void become(const std::vector<std::string>& argv, const CommandOptions& options,
                         int out, int err, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kCannotExecute);
  if (!options.directory.empty() && chdir(options.directory.c_str()) != 0) _exit(kCannotExecute);
  dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  for (const auto& [name, value] : options.environment)
    setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> words;
  for (const std::string& word : argv)
    words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  execvp(words[0], words.data());
  _exit(kCannotExecute);
}

}  // namespace

Command::Command(const std::vector<std::string>& argv, const CommandOptions& options)
    : out_(memory_file("stdout")),
      err_(memory_file("stderr")),
      deadline_(std::chrono::steady_clock::now() + options.timeout) {
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (pid_ == 0) become(argv, options, out_, err_, parent);
}

Command::~Command() {
  if (!ended_) end();
  close(out_);
  close(err_);
}

bool Command::ends_within(std::chrono::milliseconds time) {
  const auto deadline = std::chrono::steady_clock::now() + time;
  while (waitpid(pid_, &status_, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(kPoll);
  }
  ended_ = true;
  return true;
}

void Command::end() {
  kill(-pid_, SIGTERM);
  if (ends_within(kGrace)) return;
  kill(-pid_, SIGKILL);
  waitpid(pid_, &status_, 0);
  ended_ = true;
}

CommandResult Command::wait() {
  CommandResult result;
  result.timed_out = !ends_within(std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline_ - std::chrono::steady_clock::now()));
  if (result.timed_out) end();
  if (WIFEXITED(status_)) result.exit_code = WEXITSTATUS(status_);
  if (WIFSIGNALED(status_)) result.signal = WTERMSIG(status_);
  result.out = contents(out_);
  result.err = contents(err_);
  return result;
}

CommandResult run_command(const std::vector<std::string>& argv, const CommandOptions& options) {
  return Command(argv, options).wait();
}

std::vector<pid_t> processes_with(const std::string& text) {
  std::vector<pid_t> found;
  std::error_code gone;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", gone)) {
    const pid_t pid = static_cast<pid_t>(std::atoi(entry.path().filename().c_str()));
    if (pid <= 0 || pid == getpid()) continue;
    if (file_text(entry.path() / "cmdline").find(text) != std::string::npos) found.push_back(pid);
  }
  return found;
}

std::string environment_of(pid_t process, const std::string& name) {
  const std::string all = '\0' + file_text("/proc/" + std::to_string(process) + "/environ");
  const std::string key = '\0' + name + "=";
  const std::size_t at = all.find(key);
  if (at == std::string::npos) return "";
  const std::size_t begin = at + key.size();
  return all.substr(begin, all.find('\0', begin) - begin);
}

}  // namespace lockstep::testing
