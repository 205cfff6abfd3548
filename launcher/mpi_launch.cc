#include "launcher/mpi_launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "core/error.h"

namespace lockstep::launcher {

namespace {

constexpr int kLostRank = static_cast<int>(core::ErrorKind::kCommunication);
constexpr int kCannotExecute = 127;

// The handler can reach nothing but globals; they hold numbers, as long as one launch.
std::atomic<pid_t> forward_to{0};
std::atomic<bool> asked_to_stop{false};

// mpirun kills its ranks about a second after a SIGTERM, which is no time for a checkpoint, but
// passes SIGUSR1 on: the first request goes that way, a second one ends the job at once.
void forward_signal(int) {
  const pid_t child = forward_to.load();
  if (child > 0) kill(child, asked_to_stop.exchange(true) ? SIGTERM : SIGUSR1);
}

// In the child. Ctrl-C must reach only the process that forwards it, hence the group of its own;
// and mpirun must not outlive that process.
[[noreturn]] void become(const std::vector<std::string>& command, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kLostRank);
  const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (nothing >= 0) dup2(nothing, STDIN_FILENO);
  std::vector<char*> arguments;
  for (const std::string& word : command)
    arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  _exit(kCannotExecute);
}

// An mpirun that was killed leaves the memory-mapped files through which it spoke with its ranks:
// TMPDIR/ompi.HOST.UID/pid.PID.
void remove_session_of(pid_t mpirun) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const std::string owner = fmt::format(".{}", geteuid());
  for (const auto& entry : fs::directory_iterator(fs::temp_directory_path(ignored), ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("ompi.") || !name.ends_with(owner)) continue;
    fs::remove_all(entry.path() / fmt::format("pid.{}", mpirun), ignored);
  }
}

// How many processes it has; nothing when the kernel does not tell.
std::optional<std::ptrdiff_t> count_children(pid_t process) {
  std::ifstream list(fmt::format("/proc/{}/task/{}/children", process, process));
  if (!list) return std::nullopt;
  return std::distance(std::istream_iterator<pid_t>(list), std::istream_iterator<pid_t>());
}

// Ranks leave together, and mpirun ends the others when one dies; but one that dies in the middle
// of MPI_Init can leave mpirun, and with it the others, waiting for ever (PMIx 4.2 gives up on the
// connection with a lock held). Says whether the first rank has been gone for too long.
class StuckMpirun {
 public:
  StuckMpirun(pid_t mpirun, int ranks) : mpirun_(mpirun), ranks_(ranks) {}

  bool observe() {
    const auto now = std::chrono::steady_clock::now();
    const std::ptrdiff_t found = count_children(mpirun_).value_or(ranks_);
    started_ = started_ || found > 0;
    if (!started_ || found >= ranks_) whole_ = now;
    return now - whole_ > kPatience;
  }
  bool started() const { return started_; }

  static constexpr std::chrono::seconds kPatience{10};

 private:
  pid_t mpirun_;
  std::ptrdiff_t ranks_;
  bool started_ = false;  // has had a rank
  std::chrono::steady_clock::time_point whole_ = std::chrono::steady_clock::now();
};

// Its status, as waitpid gives it.
int wait_for_end(pid_t child, int ranks) {
  const int descriptor = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
  StuckMpirun stuck(child, ranks);
  int status = 0;
  pid_t ended = 0;
  while ((ended = waitpid(child, &status, WNOHANG)) == 0 || (ended < 0 && errno == EINTR)) {
    pollfd entry{descriptor, POLLIN, 0};
    poll(&entry, 1, stuck.started() ? 500 : 20);
    if (!stuck.observe()) continue;
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    remove_session_of(child);
    throw core::Error(
        core::ErrorKind::kCommunication,
        fmt::format("a rank has ended and mpirun did not end within {} s; it was killed, with the "
                    "ranks that were left: look into OUTPUT/exit and OUTPUT/logs, and resume",
                    StuckMpirun::kPatience.count()));
  }
  if (descriptor >= 0) close(descriptor);
  return ended == child ? status : SIGKILL;
}

int wait_for(pid_t child, int ranks) {
  const int status = wait_for_end(child, ranks);
  if (WIFSIGNALED(status)) {
    remove_session_of(child);
    return kLostRank;
  }
  const int code = WEXITSTATUS(status);
  if (code == kCannotExecute) {
    throw core::Error(core::ErrorKind::kConfig,
                      "cannot start mpirun: install Open MPI (Debian: openmpi-bin), or leave out "
                      "--ranks to train with one rank");
  }
  // mpirun gives 128 + signal for a rank that was killed, and codes of its own for what it lost.
  return code > static_cast<int>(core::ErrorKind::kStopped) ? kLostRank : code;
}

}  // namespace

std::vector<std::string> mpirun_command(int ranks, const std::string& program,
                                        const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {"mpirun",    "--quiet", "-np", std::to_string(ranks),
                                      "--bind-to", "none"};
  const long cores = sysconf(_SC_NPROCESSORS_ONLN);
  if (ranks > cores) {
    command.insert(command.end(), {"--oversubscribe", "--mca", "mpi_yield_when_idle", "1"});
  }
  if (geteuid() == 0) command.emplace_back("--allow-run-as-root");
  command.push_back(program);
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

namespace {

// Threads that wait by spinning take the cores from the ranks that they wait for.
void keep_waiting_threads_from_spinning(int ranks) {
  const char* threads = std::getenv("OMP_NUM_THREADS");
  const long of_rank = threads == nullptr ? 1 : std::max(1L, std::atol(threads));
  if (ranks * of_rank > sysconf(_SC_NPROCESSORS_ONLN)) setenv("OMP_WAIT_POLICY", "passive", 0);
}

}  // namespace

int launch_ranks(int ranks, const std::vector<std::string>& arguments) {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::vector<std::string> command = mpirun_command(ranks, program, arguments);
  keep_waiting_threads_from_spinning(ranks);
  setenv("OMPI_MCA_shmem", "mmap", 0);  // mpirun too would try out POSIX shared memory
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) {
    throw core::Error(core::ErrorKind::kInternal,
                      fmt::format("cannot start a process: {}", std::strerror(errno)));
  }
  if (child == 0) become(command, parent);
  asked_to_stop = false;
  forward_to = child;
  struct sigaction forward {};
  forward.sa_handler = forward_signal;
  sigaction(SIGTERM, &forward, nullptr);
  sigaction(SIGINT, &forward, nullptr);
  const int code = wait_for(child, ranks);
  forward_to = 0;
  return code;
}

}  // namespace lockstep::launcher
