#include "coordinator/attempts/start_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "core/error.h"
#include "core/signals.h"

namespace lockstep::coordinator {

namespace {

constexpr int kCannotExecute = 127;

std::vector<char*> pointers(const std::vector<std::string>& words) {
  std::vector<char*> result;
  for (const std::string& word : words)
    result.push_back(const_cast<char*>(word.c_str()));
  result.push_back(nullptr);
  return result;
}

// All that the child needs, made before the fork: behind it, in a process that had threads, only
// system calls are safe.
struct Prepared {
  std::vector<std::string> candidates;  // paths to try
  std::vector<char*> arguments;
  std::vector<char*> environment;
  std::string complaint;
  std::vector<int> keeps;  // ascending
  sigset_t held{};
  pid_t parent = 0;
};

std::vector<std::string> places_of(const StartedProcess& process) {
  const std::string& program = process.arguments.front();
  if (program.find('/') != std::string::npos) return {program};
  std::vector<std::string> places;
  for (const std::string& variable : process.environment) {
    if (!variable.starts_with("PATH=")) continue;
    std::istringstream folders(variable.substr(5));
    for (std::string folder; std::getline(folders, folder, ':');) {
      if (!folder.empty()) places.push_back(folder + "/" + program);
    }
  }
  return places;
}

void default_signals(const sigset_t& held) {
  for (int number = 1; number < NSIG; ++number)
    signal(number, SIG_DFL);
  sigprocmask(SIG_SETMASK, &held, nullptr);
}

void close_all_but(const std::vector<int>& keeps) {
  unsigned first = STDERR_FILENO + 1;
  for (const int fd : keeps) {
    const auto kept = static_cast<unsigned>(fd);
    if (kept > first) close_range(first, kept - 1, 0);
    first = std::max(first, kept + 1);
    fcntl(fd, F_SETFD, 0);
  }
  close_range(first, ~0U, 0);
}

[[noreturn]] void become(const StartedProcess& process, const Prepared& prepared) {
  if (process.new_session) setsid();
  if (process.signal_at_parents_end != 0) {
    prctl(PR_SET_PDEATHSIG, process.signal_at_parents_end);
    if (getppid() != prepared.parent) _exit(kCannotExecute);
  }
  const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  dup2(nothing, STDIN_FILENO);
  dup2(process.out >= 0 ? process.out : nothing, STDOUT_FILENO);
  dup2(process.err >= 0 ? process.err : nothing, STDERR_FILENO);
  close_all_but(prepared.keeps);
  default_signals(prepared.held);
  for (const std::string& path : prepared.candidates)
    execve(path.c_str(), prepared.arguments.data(), prepared.environment.data());
  if (write(STDERR_FILENO, prepared.complaint.data(), prepared.complaint.size()) < 0) {
    _exit(kCannotExecute);
  }
  _exit(kCannotExecute);
}

}  // namespace

pid_t start_process(const StartedProcess& process) {
  Prepared prepared;
  prepared.candidates = places_of(process);
  prepared.arguments = pointers(process.arguments);
  prepared.environment = pointers(process.environment);
  prepared.complaint =
      fmt::format("lockstep: cannot execute {}: it is not installed, or not to be executed\n",
                  process.arguments.front());
  prepared.keeps = process.keeps;
  std::sort(prepared.keeps.begin(), prepared.keeps.end());
  prepared.held = core::signal_set(process.held_signals);
  prepared.parent = getpid();
  const pid_t child = fork();
  if (child < 0) {
    throw core::Error(core::ErrorKind::kInternal,
                      fmt::format("cannot start a process: {}", std::strerror(errno)));
  }
  if (child == 0) become(process, prepared);
  return child;
}

}  // namespace lockstep::coordinator
