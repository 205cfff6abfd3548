#include "coordinator/attempts/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <array>
#include <charconv>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>

namespace lockstep::coordinator {

std::string read_proc(pid_t pid, const std::string& name) {
  // Not through a stream: a process that ends meanwhile is a read error, which those throw.
  const Descriptor file(open(fmt::format("/proc/{}/{}", pid, name).c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  std::array<char, 4096> block{};
  for (ssize_t n = 1; file && n > 0;) {
    n = read(file.get(), block.data(), block.size());
    if (n > 0) text.append(block.data(), static_cast<std::size_t>(n));
  }
  return text;
}

namespace {

std::vector<pid_t> all_processes() {
  std::vector<pid_t> found;
  DIR* directory = opendir("/proc");
  if (directory == nullptr) return found;
  while (const dirent* entry = readdir(directory)) {
    const std::string name = entry->d_name;
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error == std::errc() && end == name.data() + name.size()) found.push_back(pid);
  }
  closedir(directory);
  return found;
}

bool belongs_to_this_user(pid_t pid) {
  struct stat status {};
  return stat(fmt::format("/proc/{}", pid).c_str(), &status) == 0 && status.st_uid == geteuid();
}

// What PIDFD_GET_INFO of Linux 6.15 fills in; older C libraries do not declare it.
struct PidfdInfo {
  std::uint64_t mask;
  std::uint64_t cgroup;
  std::uint32_t ids[11];
  std::int32_t exit_code;
};
static_assert(sizeof(PidfdInfo) == 64);
constexpr std::uint64_t kPidfdInfoExit = 1U << 3;

std::optional<int> status_of_reaped(int pidfd) {
  PidfdInfo info{};
  info.mask = kPidfdInfoExit;
  const bool told = ioctl(pidfd, _IOWR(0xFF, 11, PidfdInfo), &info) == 0;
  if (!told || (info.mask & kPidfdInfoExit) == 0) return std::nullopt;
  return info.exit_code;
}

}  // namespace

std::string boot_id() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(in, id);
  return id;
}

std::optional<ProcessStat> read_stat(pid_t pid) {
  const std::string text = read_proc(pid, "stat");
  // The name stands in parentheses and may hold any character, these too.
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream rest(text.substr(name_end + 1));
  const std::vector<std::string> fields{std::istream_iterator<std::string>(rest), {}};
  constexpr std::size_t kParent = 1, kStart = 19, kExit = 49;  // counted from the state
  if (fields.size() <= kExit) return std::nullopt;
  ProcessStat stat;
  stat.pid = pid;
  stat.state = fields[0][0];
  stat.parent = std::stoi(fields[kParent]);
  stat.start_ticks = std::stoull(fields[kStart]);
  stat.wait_status = std::stoi(fields[kExit]);
  return stat;
}

std::optional<ProcessHandle> ProcessHandle::open(pid_t pid) {
  if (pid <= 1) return std::nullopt;
  Descriptor fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!fd) return std::nullopt;
  const std::optional<ProcessStat> stat = read_stat(pid);
  if (!stat || !belongs_to_this_user(pid)) return std::nullopt;
  ProcessHandle handle(pid, std::move(fd), stat->start_ticks);
  // Alive now, hence alive when its stat was read: that was the same process.
  if (handle.ended()) return std::nullopt;
  return handle;
}

bool ProcessHandle::ended() const {
  pollfd entry{fd_.get(), POLLIN, 0};
  return poll(&entry, 1, 0) > 0;
}

bool ProcessHandle::send(int signal) const {
  return syscall(SYS_pidfd_send_signal, fd_.get(), signal, nullptr, 0) == 0;
}

std::optional<int> ProcessHandle::wait_status() const {
  // The kernel knows it once its parent has asked, and /proc until then.
  std::optional<int> known = status_of_reaped(fd_.get());
  if (known) return known;
  const std::optional<ProcessStat> stat = read_stat(pid_);
  if (stat && stat->start_ticks == start_ticks_ && stat->state == 'Z') return stat->wait_status;
  return status_of_reaped(fd_.get());
}

std::vector<ProcessHandle> descendants_of(pid_t ancestor) {
  std::multimap<pid_t, pid_t> children;
  std::map<pid_t, std::uint64_t> started;
  for (const pid_t pid : all_processes()) {
    if (const auto stat = read_stat(pid)) {
      children.emplace(stat->parent, pid);
      started[pid] = stat->start_ticks;
    }
  }
  std::vector<ProcessHandle> found;
  std::vector<pid_t> open{ancestor};
  std::set<pid_t> seen{ancestor};
  while (!open.empty()) {
    const auto [begin, end] = children.equal_range(open.back());
    open.pop_back();
    for (auto child = begin; child != end; ++child) {
      if (!seen.insert(child->second).second) continue;
      open.push_back(child->second);
      auto handle = ProcessHandle::open(child->second);
      if (handle && handle->start_ticks() == started[child->second]) {
        found.push_back(std::move(*handle));
      }
    }
  }
  return found;
}

bool descends_from(pid_t pid, pid_t ancestor) {
  constexpr int kDeepest = 64;
  for (int depth = 0; depth < kDeepest; ++depth) {
    const auto stat = read_stat(pid);
    if (!stat || stat->parent <= 0) return false;
    if (stat->parent == ancestor) return true;
    pid = stat->parent;
  }
  return false;
}

std::vector<ProcessHandle> processes_with_variable(const std::string& name,
                                                   const std::string& value) {
  const std::string wanted = name + "=" + value;
  std::vector<ProcessHandle> found;
  for (const pid_t pid : all_processes()) {
    if (pid == getpid()) continue;
    auto handle = ProcessHandle::open(pid);
    if (!handle) continue;
    std::istringstream variables(read_proc(pid, "environ"));
    for (std::string variable; std::getline(variables, variable, '\0');) {
      if (variable != wanted) continue;
      if (!handle->ended()) found.push_back(std::move(*handle));
      break;
    }
  }
  return found;
}

bool is_supervised(const std::string& directory) {
  for (const pid_t pid : all_processes()) {
    const std::string line = read_proc(pid, "cmdline");
    if (line.find(std::string("supervise\0", 10)) == std::string::npos) continue;
    if (line.ends_with(std::string(1, '\0') + directory + '\0') && ProcessHandle::open(pid)) {
      return true;
    }
  }
  return false;
}

bool has_open(const ProcessHandle& process, const std::string& path) {
  struct stat wanted {};
  if (stat(path.c_str(), &wanted) != 0) return false;
  const std::string folder = fmt::format("/proc/{}/fd", process.pid());
  DIR* directory = opendir(folder.c_str());
  if (directory == nullptr) return false;
  bool found = false;
  while (const dirent* entry = readdir(directory)) {
    struct stat status {};
    if (stat((folder + "/" + entry->d_name).c_str(), &status) != 0) continue;
    found = found || (status.st_dev == wanted.st_dev && status.st_ino == wanted.st_ino);
  }
  closedir(directory);
  return found && !process.ended();
}

std::string describe_process(const ProcessHandle& process) {
  std::string name = read_proc(process.pid(), "comm");
  if (!name.empty() && name.back() == '\n') name.pop_back();
  const auto stat = read_stat(process.pid());
  return fmt::format("{} ({}, state {})", process.pid(), name, stat ? stat->state : '?');
}

std::int64_t count_memory_kills() {
  std::ifstream in("/proc/vmstat");
  std::string name;
  for (std::int64_t value = 0; in >> name >> value;) {
    if (name == "oom_kill") return value;
  }
  return 0;
}

}  // namespace lockstep::coordinator
