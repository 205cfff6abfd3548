#include "comm/mpi/mpirun.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "core/error.h"

namespace lockstep::comm {

namespace {

namespace fs = std::filesystem;

constexpr const char* kSessionPrefix = "lockstep-mpirun.";
// A directory that is younger may not be locked yet.
constexpr auto kYoung = std::chrono::minutes(1);

std::string temporary_directory() {
  for (const char* name : {"TMPDIR", "TEMP", "TMP"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') return value;
  }
  return "/tmp";
}

bool is_young(const struct stat& status) {
  const auto changed = std::chrono::system_clock::from_time_t(status.st_mtime);
  return std::chrono::system_clock::now() - changed < kYoung;
}

// If it is one of this user, of a process that has ended without taking it away. old: not one that
// may be about to be locked.
void remove_if_abandoned(const fs::path& directory, bool old) {
  if (!directory.filename().string().starts_with(kSessionPrefix)) return;
  const int file = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return;
  struct stat status {};
  const bool abandoned = fstat(file, &status) == 0 && status.st_uid == geteuid() &&
                         !(old && is_young(status)) && flock(file, LOCK_EX | LOCK_NB) == 0;
  std::error_code left;
  if (abandoned) fs::remove_all(directory, left);
  close(file);
}

void remove_abandoned(const std::string& parent) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(parent, ignored))
    remove_if_abandoned(entry.path(), true);
}

}  // namespace

std::vector<std::string> mpirun_command(const MpirunCall& call) {
  std::vector<std::string> command = {"mpirun", "-np", std::to_string(call.ranks)};
  if (!call.hosts.empty()) {
    command.insert(command.end(),
                   {"--host", fmt::format("{}", fmt::join(call.hosts, ",")), "--map-by", "slot"});
  }
  command.insert(command.end(), {"--bind-to", "none", "--oversubscribe"});
  if (geteuid() == 0) command.emplace_back("--allow-run-as-root");
  for (const std::string& name : call.exported)
    command.insert(command.end(), {"-x", name});
  command.insert(command.end(), call.program.begin(), call.program.end());
  return command;
}

std::vector<std::pair<std::string, std::string>> mpirun_environment(const std::string& session,
                                                                    bool crowded, bool quiet) {
  // POSIX shared memory is not even tried: what is killed meanwhile stays in /dev/shm.
  std::vector<std::pair<std::string, std::string>> variables = {{"OMPI_MCA_shmem", "mmap"}};
  if (crowded) variables.emplace_back("OMPI_MCA_mpi_yield_when_idle", "1");
  if (quiet) {
    variables.emplace_back("OMPI_MCA_orte_execute_quiet", "1");
    variables.emplace_back("PRTE_MCA_prte_execute_quiet", "1");
  }
  // Not Open MPI's own parameters: 4.1 hands them to the ranks too, which refuse them there.
  if (!session.empty()) variables.emplace_back("TMPDIR", session);
  return variables;
}

const std::vector<int>& signals_kept_from_mpirun() {
  static const std::vector<int> signals = {SIGTERM, SIGHUP, SIGALRM, SIGVTALRM, SIGPROF};
  return signals;
}

void allow_mpirun_descriptors(int ranks) {
  constexpr int kOwn = 40;
  constexpr int kPerRank = 5;
  const auto needed = static_cast<rlim_t>(kOwn + kPerRank * ranks);
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed) return;
  if (limit.rlim_max < needed) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("mpirun needs {} open files for {} ranks, and this process may "
                                  "have {}; raise the limit (ulimit -n 1024)",
                                  needed, ranks, limit.rlim_max));
  }
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

MpirunSession::MpirunSession() {
  const std::string parent = temporary_directory();
  remove_abandoned(parent);
  path_ = parent + "/" + kSessionPrefix + "XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("mpirun needs a directory for temporary files, and none can be made in {}: {}; "
                    "set TMPDIR to a directory that can be written",
                    parent, std::strerror(errno)));
  }
  lock_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  flock(lock_, LOCK_EX | LOCK_NB);
}

void remove_session(const std::string& path) {
  remove_if_abandoned(path, false);
}

MpirunSession::~MpirunSession() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  if (lock_ >= 0) close(lock_);
}

}  // namespace lockstep::comm
