#include "coordinator/attempts/supervised_attempts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>

#include <nlohmann/json.hpp>

#include "comm/mpi/mpirun.h"
#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/control_channel.h"
#include "coordinator/attempts/exit_classification.h"
#include "coordinator/attempts/launch_command.h"
#include "coordinator/attempts/process.h"
#include "coordinator/attempts/start_process.h"
#include "coordinator/model/failpoint.h"
#include "core/error.h"

namespace lockstep::coordinator {

namespace {

namespace fs = std::filesystem;

constexpr int kAnswerMs = 200;
// What the ladder may take below the graceful stop, and some more.
constexpr std::int64_t kLadderTime = 100 * kSecond;

[[noreturn]] void fail(const std::string& what) {
  throw core::Error(core::ErrorKind::kInternal,
                    fmt::format("cannot {}: {}", what, std::strerror(errno)));
}

std::int64_t steady_now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct Lock {
  bool held = false;  // by a supervisor, or by who is about to start it
  Descriptor own;     // got here; empty also when there is no file
};

Lock take_lock(const std::string& directory, int flags = 0) {
  Lock lock;
  lock.own = Descriptor(
      open((directory + "/lock").c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | flags, 0600));
  if (lock.own && flock(lock.own.get(), LOCK_EX | LOCK_NB) != 0) {
    lock.held = true;
    lock.own.reset();
  }
  return lock;
}

std::optional<LaunchSpec> spec_in(const std::string& directory) {
  const auto text = read_small_file(directory, "launch.json");
  if (!text) return std::nullopt;
  try {
    return parse_launch_spec(*text);
  } catch (const core::Error&) {
    return std::nullopt;
  }
}

// Whether a supervisor has ever been at work here: it says who it is before it starts anything, and
// what keeps it from that stands in its log.
bool supervisor_has_begun(const std::string& directory) {
  std::error_code none;
  for (const char* name : {"supervisor.json", "state.json", "exit.json"}) {
    if (fs::exists(fs::symlink_status(directory + "/" + name, none))) return true;
  }
  const auto size = fs::file_size(directory + "/supervisor.log", none);
  return !none && size > 0;
}

// The files of a new attempt; gives its lock. What a launch that was cut short made is used: up to
// the moment at which a supervisor says who it is, nothing of the attempt has run.
Descriptor make_directory(const std::string& directory, const LaunchSpec& spec) {
  std::error_code error;
  fs::create_directories(fs::path(directory).parent_path(), error);
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) fail("make " + directory);
  Lock lock = take_lock(directory, O_CREAT);
  if (lock.held || supervisor_has_begun(directory)) {
    throw core::Error(core::ErrorKind::kInternal,
                      directory + " is there already: this attempt has been launched before");
  }
  if (!lock.own) fail("lock " + directory);
  if (!write_file(directory, "launch.json", to_text(to_json(spec)), true)) {
    fail("write " + directory + "/launch.json");
  }
  return std::move(lock.own);
}

std::string first_bytes(std::string text) {
  constexpr std::size_t kLongest = 2048;
  text = text.substr(0, kLongest);
  while (!text.empty() && text.back() == '\n')
    text.pop_back();
  return text;
}

// It never came so far as to start anything.
AttemptStatus never_started(const std::string& directory, const LaunchSpec& spec) {
  AttemptStatus status;
  status.phase = AttemptPhase::kEnded;
  status.end_time_ns = unix_now_ns();
  status.exit.category = FailureCategory::kLaunch;
  status.exit.code = static_cast<int>(core::ErrorKind::kInternal);
  status.exit.host = spec.hosts.front().host;
  status.exit.message = "the supervisor of the attempt could not begin: " +
                        first_bytes(read_small_file(directory, "supervisor.log").value_or(""));
  return status;
}

// How it ended as far as the ranks' own records tell.
ExitInfo classify_without_supervisor(const LaunchSpec& spec, const AttemptStatus& last,
                                     bool same_boot) {
  EndFacts end;
  bool all_recorded = last.start_time_ns != 0;
  for (const HostSlots& host : spec.hosts) {
    for (std::size_t slot = 0; slot < host.slots.size(); ++slot) {
      RankEnd rank;
      rank.rank = static_cast<int>(end.ranks.size());
      rank.host = host.host;
      rank.record = read_exit_record(spec.output, rank.rank, last.start_time_ns);
      if (rank.record) rank.pid = rank.record->pid;
      all_recorded = all_recorded && rank.record;
      end.ranks.push_back(std::move(rank));
    }
  }
  ExitInfo exit = classify(end);
  if (all_recorded) return exit;
  exit.category = same_boot ? FailureCategory::kCoordinator : FailureCategory::kHostLost;
  exit.code = static_cast<int>(core::ErrorKind::kCommunication);
  exit.failing_rank = -1;
  exit.host = spec.hosts.front().host;
  exit.message = same_boot ? "the supervisor of the attempt was ended; its ranks went with it"
                           : "the machine was restarted while the attempt ran";
  return exit;
}

}  // namespace

SupervisedAttempts::SupervisedAttempts(SupervisedAttemptsOptions options)
    : options_([&] {
        if (options.program.empty()) options.program = fs::read_symlink("/proc/self/exe").string();
        return std::move(options);
      }()) {}

SupervisedAttempts::~SupervisedAttempts() = default;

std::string SupervisedAttempts::directory_of(const AttemptRef& attempt) const {
  return attempt_directory(options_.state_directory, attempt);
}

void SupervisedAttempts::launch(const LaunchSpec& spec) {
  check_launchable(spec);
  const std::string directory = directory_of(spec.attempt);
  // The lock is held from before there is a process: whoever finds it free knows that none came.
  const Descriptor lock = make_directory(directory, spec);
  const Descriptor log(open((directory + "/supervisor.log").c_str(),
                            O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!log) fail("open " + directory + "/supervisor.log");
  StartedProcess supervisor;
  supervisor.arguments = {options_.program, "supervise", "--lock", std::to_string(lock.get()),
                          directory};
  supervisor.environment = to_block(allowed_environment(environ));
  supervisor.out = log.get();
  supervisor.err = log.get();
  supervisor.keeps = {lock.get()};
  supervisor.new_session = true;
  failpoint("attempts.before_fork");
  supervisors_[directory] = start_process(supervisor);
  failpoint("attempts.after_fork");
  launched_.insert(directory);
}

// Supervisors are children of the coordinator that started them. Nothing is learned from how they
// end.
void SupervisedAttempts::reap(const std::string& directory) {
  const auto child = supervisors_.find(directory);
  if (child != supervisors_.end() && waitpid(child->second, nullptr, WNOHANG) != 0) {
    supervisors_.erase(child);
  }
}

// Somebody removed the lock, or the whole directory, of an attempt that runs; its supervisor is about
// to make it again. The lock alone does not prove that nothing lives: here the processes do.
static bool lives_without_files(const AttemptRef& attempt, const std::string& directory) {
  if (fs::exists(directory + "/launch.json") && fs::exists(directory + "/lock")) return false;
  if (is_supervised(directory)) return true;
  return !fs::exists(directory + "/launch.json") &&
         !processes_with_variable(kAttemptTagVariable, attempt_tag(attempt)).empty();
}

AttemptStatus SupervisedAttempts::poll(const AttemptRef& attempt) {
  const std::string directory = directory_of(attempt);
  reap(directory);
  Lock lock = take_lock(directory);
  // After the lock was looked at: a supervisor gives it back behind its last file.
  if (auto ended = read_status(directory, "exit.json")) {
    stops_.erase(directory);
    return *ended;
  }
  if (!lock.held && lives_without_files(attempt, directory)) {
    AttemptStatus status;
    status.phase = AttemptPhase::kRunning;
    return status;
  }
  if (!lock.held) return clean_up_after_supervisor(directory);
  AttemptStatus status = read_status(directory, "state.json").value_or(AttemptStatus{});
  if (status.phase == AttemptPhase::kAbsent) status.phase = AttemptPhase::kStarting;
  status.supervisor_alive = true;
  replace_stuck_supervisor(directory);
  return status;
}

StopAnswer SupervisedAttempts::stop(const AttemptRef& attempt, const StopRequest& request) {
  const std::string directory = directory_of(attempt);
  const std::optional<LaunchSpec> spec = spec_in(directory);
  if (read_status(directory, "exit.json")) return StopAnswer::kEnded;
  if (!spec && take_lock(directory).held) {
    // What it would be told over its socket it could not believe; a signal it can.
    signal_supervisor(directory, request.force ? SIGKILL : SIGTERM);
    return StopAnswer::kAccepted;
  }
  if (!spec) {
    // Its supervisor has not made the directory again: its processes are asked themselves.
    const auto left = processes_with_variable(kAttemptTagVariable, attempt_tag(attempt));
    for (const ProcessHandle& process : left)
      process.send(request.force ? SIGKILL : SIGTERM);
    return left.empty() ? StopAnswer::kEnded : StopAnswer::kAccepted;
  }
  if (spec->attempt != attempt) return StopAnswer::kStaleFence;
  Stop& stop = stops_[directory];
  const std::int64_t due = steady_now_ns() + (request.force ? 0 : request.grace_ns) + kLadderTime;
  if (stop.due_ns == 0 || due < stop.due_ns) stop.due_ns = due;
  const std::string text = to_text(to_json(request, attempt.fence));
  const auto reply = call_control(directory, text, kAnswerMs);
  if (reply && reply->text == "accepted") return StopAnswer::kAccepted;
  if (reply && reply->text == "stale") return StopAnswer::kStaleFence;
  // It does not listen yet, or is busy: it looks for this file at its start and every second.
  return write_file(directory, "stop.json", text, true) ? StopAnswer::kAccepted
                                                        : StopAnswer::kNotYet;
}

// A supervisor that has not come to an end long after it should have is itself ended; what it left
// is then swept from here. It must be proved to be the supervisor: the recorded process of this
// start of the machine, and holding our lock file open.
void SupervisedAttempts::replace_stuck_supervisor(const std::string& directory) {
  const auto stop = stops_.find(directory);
  if (stop == stops_.end() || steady_now_ns() < stop->second.due_ns) return;
  signal_supervisor(directory, SIGKILL);
}

// Only if it is proved to be the supervisor.
void SupervisedAttempts::signal_supervisor(const std::string& directory, int signal) {
  const auto identity = read_supervisor_identity(directory);
  if (!identity || identity->boot_id != boot_id()) return;
  const auto process = ProcessHandle::open(static_cast<pid_t>(identity->pid));
  if (!process || process->start_ticks() != identity->start_ticks) return;
  if (!has_open(*process, directory + "/lock")) return;
  process->send(signal);
}

// The caller holds the lock, or there is none: no supervisor is there, and none will be.
AttemptStatus SupervisedAttempts::clean_up_after_supervisor(const std::string& directory) {
  const std::optional<LaunchSpec> spec = spec_in(directory);
  if (!spec) return {};
  // The coordinator that was to start it died on the way: the next one starts the same attempt.
  if (!launched_.contains(directory) && !supervisor_has_begun(directory)) return {};
  const auto identity = read_supervisor_identity(directory);
  const bool same_boot = identity && identity->boot_id == boot_id();
  AttemptStatus status = read_status(directory, "state.json").value_or(AttemptStatus{});
  status.phase = AttemptPhase::kStopping;
  status.rung = StopRung::kSweep;
  // Also when the record was damaged: the tag is proof enough, and no process outlives its machine.
  const auto left = processes_with_variable(kAttemptTagVariable, attempt_tag(spec->attempt));
  for (const ProcessHandle& process : left)
    process.send(SIGKILL);
  if (!left.empty()) return status;
  if (const auto session = read_small_file(directory, "session")) comm::remove_session(*session);
  for (RankProcess& rank : status.ranks)
    rank.alive = false;
  if (identity || status.start_time_ns != 0) {
    status.phase = AttemptPhase::kEnded;
    status.end_time_ns = unix_now_ns();
    status.exit = classify_without_supervisor(*spec, status, same_boot);
  } else {
    status = never_started(directory, *spec);
  }
  if (!write_file(directory, "exit.json", to_text(to_json(status)), true)) {
    status.phase = AttemptPhase::kStopping;
  }
  return status;
}

// One directory below runs/RUN/attempts; nothing if no attempt is there, or none that ever ran.
static std::optional<FoundAttempt> look_into(const std::string& run, const fs::path& directory) {
  const std::string name = directory.filename().string();
  FoundAttempt found;
  found.ref.run = run;
  const auto read = std::from_chars(name.data(), name.data() + name.size(), found.ref.number);
  if (read.ec != std::errc() || read.ptr != name.data() + name.size() || found.ref.number < 1) {
    return std::nullopt;
  }
  found.ended = read_status(directory, "exit.json").has_value();
  found.spec = spec_in(directory);
  if (found.spec &&
      (found.spec->attempt.run != run || found.spec->attempt.number != found.ref.number)) {
    found.spec.reset();
  }
  if (found.spec) {
    found.ref = found.spec->attempt;
  } else if (!found.ended && !take_lock(directory).held) {
    return std::nullopt;
  }
  return found;
}

std::vector<FoundAttempt> SupervisedAttempts::find_all(
    const std::function<bool(const std::string&)>& skip) {
  std::vector<FoundAttempt> all;
  std::error_code none;
  for (const auto& run : fs::directory_iterator(options_.state_directory + "/runs", none)) {
    const std::string id = run.path().filename().string();
    if (skip(id)) continue;
    for (const auto& attempt : fs::directory_iterator(run.path() / "attempts", none)) {
      if (auto found = look_into(id, attempt.path())) all.push_back(std::move(*found));
    }
  }
  return all;
}

void SupervisedAttempts::set_aside(const AttemptRef& attempt) {
  const std::string directory = directory_of(attempt);
  if (!fs::exists(directory)) return;
  if (take_lock(directory).held) {
    throw core::Error(core::ErrorKind::kInternal, directory + " is of an attempt that still runs");
  }
  for (int number = 1;; ++number) {
    const std::string aside = fmt::format("{}.aside-{}", directory, number);
    if (fs::exists(aside)) continue;
    std::error_code error;
    fs::rename(directory, aside, error);
    if (error) {
      throw core::Error(core::ErrorKind::kInternal,
                        fmt::format("cannot rename {}: {}", directory, error.message()));
    }
    return;
  }
}

void SupervisedAttempts::remove(const AttemptRef& attempt) {
  const std::string directory = directory_of(attempt);
  if (!fs::exists(directory)) return;
  // A supervisor that is still about to leave writes nothing behind this file.
  if (!read_status(directory, "exit.json")) {
    throw core::Error(core::ErrorKind::kInternal,
                      directory + " is of an attempt that has not ended");
  }
  fs::remove_all(directory);
  stops_.erase(directory);
  launched_.erase(directory);
}

}  // namespace lockstep::coordinator
