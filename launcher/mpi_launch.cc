#include "launcher/mpi_launch.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "comm/mpi/mpirun.h"
#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/exit_classification.h"
#include "coordinator/attempts/start_process.h"
#include "core/error.h"
#include "core/processors.h"
#include "core/signals.h"
#include "launcher/launch_verdict.h"
#include "launcher/launcher_line.h"
#include "launcher/output_relay.h"
#include "launcher/run_description.h"
#include "launcher/stop_request.h"

extern "C" char** environ;  // NOLINT(readability-redundant-declaration): not in every <unistd.h>

namespace lockstep::launcher {

namespace {

using Clock = std::chrono::steady_clock;
using core::ErrorKind;

// The first rank comes within seconds, unless mpirun stands still.
constexpr std::chrono::seconds kStartLimit{120};
// The same when the run is to stop anyway.
constexpr std::chrono::seconds kStartLimitOfStop{15};
constexpr int kPollMs = 200;

// Threads that wait by spinning take the cores from the ranks that they wait for.
void keep_waiting_threads_from_spinning(int ranks) {
  if (ranks * std::max(1, threads_from_environment()) > core::usable_cores())
    setenv("OMP_WAIT_POLICY", "passive", 0);
}

// Open MPI reads the home directory of the user, and breaks where there is none.
void give_home(const std::string& directory) {
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') setenv("HOME", directory.c_str(), 1);
}

std::vector<std::string> own_environment() {
  std::vector<std::string> variables;
  for (char** each = environ; *each != nullptr; ++each)
    variables.emplace_back(*each);
  return variables;
}

// One launch of mpirun, from its start to its end.
class Launch {
 public:
  explicit Launch(const RankLaunch& launch)
      : launch_(launch),
        out_(line_, STDOUT_FILENO),
        err_(line_, STDERR_FILENO),
        signals_(stop_signals(), [this](int signal) { note(signal); }) {}

  int run() {
    start();
    while (!ended()) {
      const auto progress = ranks_.listen({process_, noted_}, kPollMs);
      if (progress) line_.show(*progress);
      answer_signals();
      end_what_stands_still();
    }
    ranks_.listen({}, 0);  // what they said last
    out_.drain();
    err_.drain();
    line_.show("");
    return conclude();
  }

 private:
  void start();
  void note(int signal);
  void answer_signals();
  void kill_everything();
  void end_what_stands_still();
  bool ended();
  int conclude();

  const RankLaunch& launch_;
  ProgressLine line_;
  OutputRelay out_;
  OutputRelay err_;
  comm::MpirunSession session_;
  RankLines ranks_;
  const int noted_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  LaunchFacts facts_;
  SecondRequest second_;
  std::atomic<int> stop_{0};  // the first signal
  std::atomic<bool> at_once_{false};
  pid_t mpirun_ = 0;
  int process_ = -1;  // pidfd of mpirun
  std::int64_t began_ns_ = 0;
  std::string stuck_;  // what stood still
  Clock::time_point began_ = Clock::now();
  std::optional<Clock::time_point> stop_began_;
  std::optional<Clock::time_point> first_end_;  // of a rank
  core::SignalThread signals_;
};

void Launch::start() {
  // What nobody reads, or what does not fit, must not end the ranks.
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  comm::allow_mpirun_descriptors(launch_.ranks);
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  comm::MpirunCall call{launch_.ranks, {program}};
  call.program.insert(call.program.end(), launch_.arguments.begin(), launch_.arguments.end());
  const bool crowded = launch_.ranks > core::usable_cores();
  for (const auto& [name, value] : comm::mpirun_environment(session_.path(), crowded, true))
    setenv(name.c_str(), value.c_str(), 0);
  keep_waiting_threads_from_spinning(launch_.ranks);
  give_home(session_.path());
  ranks_.put_into_environment(line_.on_terminal());
  coordinator::StartedProcess child;
  child.arguments = comm::mpirun_command(call);
  child.environment = own_environment();
  child.out = out_.write_end();
  child.err = err_.write_end();
  child.new_session = true;
  child.held_signals = comm::signals_kept_from_mpirun();
  child.held_signals.push_back(SIGINT);  // as well: this process passes on what is asked for
  child.signal_at_parents_end = SIGKILL;
  began_ns_ = coordinator::unix_now_ns();
  mpirun_ = coordinator::start_process(child);
  process_ = static_cast<int>(syscall(SYS_pidfd_open, mpirun_, 0));
  out_.start();
  err_.start();
}

// On the thread of the signals.
void Launch::note(int signal) {
  int none = 0;
  stop_.compare_exchange_strong(none, signal);
  if (second_.is_second(signal) || !launch_.listen) at_once_ = true;
  eventfd_write(noted_, 1);
}

void Launch::answer_signals() {
  eventfd_t ignored = 0;
  eventfd_read(noted_, &ignored);
  if (stop_ != 0 && !stop_began_) {
    stop_began_ = Clock::now();
    ranks_.ask_to_stop();
  }
  if (at_once_) kill_everything();
}

void Launch::kill_everything() {
  for (const RankLines::Rank& rank : ranks_.ranks()) {
    if (rank.socket >= 0) kill(rank.pid, SIGKILL);  // it lives: its end of the line is open
  }
  kill(mpirun_, SIGKILL);  // ranks that have not said yet that they are there end with it
}

// Says whether mpirun waits for what will never come.
void Launch::end_what_stands_still() {
  const auto now = Clock::now();
  const std::vector<RankLines::Rank>& ranks = ranks_.ranks();
  const auto gone = [](const RankLines::Rank& rank) { return rank.socket < 0; };
  if (!first_end_ && std::any_of(ranks.begin(), ranks.end(), gone)) first_end_ = now;
  const auto fail = [&](const std::string& why) {
    kill_everything();
    stuck_ = why;
  };
  if (!stuck_.empty()) return;
  if (first_end_ && now - *first_end_ > comm::kMpirunPatience) {
    fail(
        fmt::format("a rank has ended and mpirun did not end within {} s; it was killed, with the "
                    "ranks that were left: look into {}/exit and {}/logs, and continue with "
                    "--resume auto",
                    comm::kMpirunPatience.count(), launch_.output, launch_.output));
  } else if (ranks.empty() && now - began_ > kStartLimit) {
    fail(fmt::format("mpirun started no rank within {} s; it was killed", kStartLimit.count()));
  } else if (ranks.empty() && stop_began_ && now - *stop_began_ > kStartLimitOfStop) {
    kill_everything();
  }
}

bool Launch::ended() {
  int status = 0;
  const pid_t found = waitpid(mpirun_, &status, WNOHANG);
  if (found == 0 || (found < 0 && errno == EINTR)) return false;
  facts_.mpirun_status = found == mpirun_ ? status : SIGKILL;
  return true;
}

int Launch::conclude() {
  facts_.ranks = launch_.ranks;
  facts_.stop_signal = stop_;
  facts_.at_once = at_once_;
  facts_.spoke = err_.bytes() > 0;
  facts_.arrived = static_cast<int>(ranks_.ranks().size());
  for (const RankLines::Rank& rank : ranks_.ranks()) {
    auto record = coordinator::read_exit_record(launch_.output, rank.number, began_ns_);
    if (record && record->pid == rank.pid) facts_.records.push_back(std::move(*record));
  }
  const LaunchVerdict verdict = judge(facts_);
  const bool lost = verdict.code != 0 && facts_.records.empty();
  if (!stuck_.empty() && lost && !facts_.at_once) {
    throw core::Error(ErrorKind::kCommunication, stuck_);
  }
  if (!verdict.message.empty()) {
    const std::string text = "lockstep: " + verdict.message + "\n";
    line_.print(STDERR_FILENO, text.data(), text.size());
  }
  return verdict.code;
}

}  // namespace

int launch_ranks(const RankLaunch& launch) {
  return Launch(launch).run();
}

}  // namespace lockstep::launcher
