#include "coordinator/attempts/supervisor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/launch_command.h"
#include "coordinator/attempts/start_process.h"
#include "core/error.h"
#include "core/json_text.h"

namespace lockstep::coordinator {

namespace {

constexpr std::int64_t kConnectionTime = 10 * kSecond;
// Who asks the agent gets this long before rank 0 is asked by a signal too.
constexpr std::int64_t kAgentTime = 2 * kSecond;

// Of exit.json, with some messages of ranks.
constexpr std::size_t kExitBytes = 64 << 10;

[[noreturn]] void fail(const char* what) {
  throw core::Error(core::ErrorKind::kInternal,
                    fmt::format("cannot {}: {}", what, std::strerror(errno)));
}

LaunchSpec read_spec(const std::string& directory) {
  const auto text = read_small_file(directory, "launch.json");
  if (!text) {
    throw core::Error(core::ErrorKind::kData,
                      directory + "/launch.json is not there or cannot be read");
  }
  LaunchSpec spec = parse_launch_spec(*text);
  check_launchable(spec);
  return spec;
}

std::uint64_t inode_of(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 ? status.st_ino : 0;
}

void allow_many_files() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

Descriptor take_supervisor_lock(const std::string& directory, int inherited) {
  Descriptor lock(inherited >= 0
                      ? inherited
                      : open((directory + "/lock").c_str(), O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (!lock || fcntl(lock.get(), F_SETFD, FD_CLOEXEC) != 0 ||
      flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    fail("lock the directory of the attempt, which another supervisor may be looking after");
  }
  return lock;
}

Supervisor::Supervisor(std::string directory, std::string self)
    : directory_(std::move(directory)),
      self_(std::move(self)),
      spec_(read_spec(directory_)),
      poller_(epoll_create1(EPOLL_CLOEXEC)),
      began_ns_(unix_now_ns()),
      began_(std::chrono::steady_clock::now()),
      ladder_(spec_.agent_address.empty() ? 0 : kAgentTime) {
  if (!poller_) fail("watch anything");
  ranks_.resize(static_cast<std::size_t>(spec_.ranks()));
  std::size_t next = 0;
  for (const HostSlots& host : spec_.hosts) {
    for (std::size_t slot = 0; slot < host.slots.size(); ++slot) {
      ranks_[next].host = host.host;
      ranks_[next++].elsewhere = !is_this_machine(host.address);
    }
  }
}

Supervisor::~Supervisor() = default;

std::int64_t Supervisor::now() const {
  const auto passed = std::chrono::steady_clock::now() - began_;
  return began_ns_ + std::chrono::duration_cast<std::chrono::nanoseconds>(passed).count();
}

void Supervisor::run() {
  // Relative paths and core files of ranks stay with the attempt.
  if (chdir(directory_.c_str()) != 0) fail("enter the directory of the attempt");
  prepare_signals();
  identify();
  allow_many_files();
  reserve_file(directory_, "exit.json", kExitBytes);
  logs_.emplace(directory_, spec_.ranks(), spec_.logs);
  listener_.emplace(directory_);
  watch(listener_->fd());
  start_launcher();
  logs_->start();
  read_stop_file();
  while (!ladder_.finished() && !ladder_.gave_up()) {
    wait_for_events();
    advance();
    publish();
    keep_directory();
  }
  finish();
}

void Supervisor::prepare_signals() {
  sigset_t taken;
  sigemptyset(&taken);
  for (const int number : {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2})
    sigaddset(&taken, number);
  if (sigprocmask(SIG_BLOCK, &taken, nullptr) != 0) fail("take signals");
  signal(SIGPIPE, SIG_IGN);
  signals_ = Descriptor(signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) fail("take signals");
  watch(signals_.get());
}

void Supervisor::identify() {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) fail("become the reaper of all ranks");
  spool_ = Descriptor(open((directory_ + "/spool.jsonl").c_str(),
                           O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!spool_) fail("open spool.jsonl");
  lock_inode_ = inode_of(directory_ + "/lock");
  const auto stat = read_stat(getpid());
  if (!stat ||
      !write_file(directory_, "supervisor.json",
                  to_text(SupervisorIdentity{boot_id(), getpid(), stat->start_ticks}), true)) {
    fail("write supervisor.json");
  }
}

void Supervisor::start_launcher() {
  StartedProcess child;
  session_.emplace();
  write_file(directory_, "session", session_->path(), false);
  const Environment environment =
      rank_environment(spec_, allowed_environment(environ), session_->path());
  child.arguments = launch_command(spec_, directory_, self_, environment);
  child.environment = to_block(environment);
  const Descriptor out = logs_->take_end(-1, false);
  const Descriptor err = logs_->take_end(-1, true);
  child.out = out.get();
  child.err = err.get();
  child.new_session = true;
  child.held_signals = comm::signals_kept_from_mpirun();
  child.signal_at_parents_end = SIGINT;
  memory_kills_ = count_memory_kills();
  start_ns_ = now();
  launcher_ = start_process(child);
  launcher_process_ = ProcessHandle::open(launcher_);
  note("launched", fmt::format("\"pid\":{}", launcher_));
}

void Supervisor::watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (epoll_ctl(poller_.get(), EPOLL_CTL_ADD, fd, &event) != 0) fail("watch a descriptor");
}

void Supervisor::wait_for_events() {
  const int timeout_ms = ladder_.rung() == StopRung::kNone ? 250 : 50;
  std::array<epoll_event, 64> events{};
  const int count =
      epoll_wait(poller_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  // In the order in which they happened: that is how the first rank to end is known.
  for (int i = 0; i < count; ++i) {
    const int fd = events[static_cast<std::size_t>(i)].data.fd;
    if (fd == signals_.get()) {
      handle_signals();
    } else if (fd == listener_->fd()) {
      while (Descriptor socket = listener_->accept()) {
        watch(socket.get());
        connections_.push_back({std::move(socket), now()});
      }
    } else {
      note_rank_ends(fd);
      for (auto at = connections_.begin(); at != connections_.end(); ++at) {
        if (at->socket.get() != fd) continue;
        handle_connection(*at);
        connections_.erase(at);
        break;
      }
    }
  }
  std::erase_if(connections_, [&](const Connection& connection) {
    return now() - connection.since_ns > kConnectionTime;
  });
}

void Supervisor::handle_signals() {
  signalfd_siginfo info{};
  while (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    const auto number = static_cast<int>(info.ssi_signo);
    // The machine goes down, or a person asks.
    if (number == SIGTERM) begin_stop({});
  }
  reap();
}

void Supervisor::reap() {
  int status = 0;
  for (pid_t pid = waitpid(-1, &status, WNOHANG); pid > 0; pid = waitpid(-1, &status, WNOHANG)) {
    if (pid == launcher_ && !launcher_ended_) {
      launcher_ended_ = true;
      launcher_status_ = status;
      launcher_end_ns_ = now();
      changed_ = true;
      note("launcher_ended", fmt::format("\"status\":{}", status));
    }
  }
}

void Supervisor::note_rank_ends(int fd) {
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    Rank& rank = ranks_[i];
    if (!rank.process || rank.end_ns != 0 || rank.process->fd() != fd) continue;
    rank.end_ns = now();
    rank.wait_status = rank.process->wait_status();
    epoll_ctl(poller_.get(), EPOLL_CTL_DEL, fd, nullptr);
    changed_ = true;
    note("rank_ended", fmt::format("\"rank\":{},\"status\":{}", i, rank.wait_status.value_or(-1)));
  }
}

void Supervisor::handle_connection(Connection& connection) {
  const std::optional<ControlMessage> message = receive_control(connection.socket);
  if (!message || !message->own_user) return;
  const nlohmann::json value = nlohmann::json::parse(message->text, nullptr, false);
  if (!value.is_object()) return;
  const std::string verb = value.value("verb", "");
  if (verb == "rank") {
    const nlohmann::json rank = value.value("rank", nlohmann::json());
    add_rank(connection.socket, *message, rank.is_number_integer() ? rank.get<int>() : -1);
  } else if (verb == "stop") {
    answer_control(connection.socket, stop_on_request(message->text));
  }
}

// A rank of this machine says that it is there. Which process it is, the kernel tells.
void Supervisor::add_rank(const Descriptor& connection, const ControlMessage& message, int rank) {
  if (rank < 0 || rank >= spec_.ranks()) return answer_control(connection, "no such rank");
  Rank& known = ranks_[static_cast<std::size_t>(rank)];
  auto process = ProcessHandle::open(message.pid);
  if (!process || !descends_from(message.pid, getpid())) {
    return answer_control(connection, "not a process of this attempt");
  }
  if (known.process) return answer_control(connection, "this rank is there already");
  const Descriptor out = logs_->take_end(rank, false);
  const Descriptor err = logs_->take_end(rank, true);
  watch(process->fd());
  note("rank_started", fmt::format("\"rank\":{},\"pid\":{}", rank, message.pid));
  known.process = std::move(process);
  changed_ = true;
  answer_control(connection, "welcome", {out.get(), err.get()});
}

std::string Supervisor::stop_on_request(const std::string& text) {
  try {
    const StopMessage message = parse_stop_message(text);
    if (message.fence != spec_.attempt.fence) return "stale";
    begin_stop(message.request);
    return "accepted";
  } catch (const core::Error& error) {
    return error.what();
  }
}

// What came while nobody listened at the socket.
void Supervisor::read_stop_file() {
  looked_for_stop_ns_ = now();
  if (const auto text = read_small_file(directory_, "stop.json")) {
    stop_on_request(*text);
    unlink((directory_ + "/stop.json").c_str());
  }
}

void Supervisor::begin_stop(const StopRequest& request) {
  note("stop_requested", fmt::format("\"force\":{},\"cause\":\"{}\",\"message\":{}", request.force,
                                     to_string(request.cause), core::json_string(request.message)));
  if (request.cause == FailureCategory::kHang && !ladder_.requested()) {
    std::vector<std::pair<int, std::int64_t>> processes;
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      const auto& process = ranks_[i].process;
      if (process && !process->ended()) processes.emplace_back(static_cast<int>(i), process->pid());
    }
    hang_ = examine_hang(directory_, spec_.output, processes);
    for (const std::string& sentence : hang_.stuck)
      note("stuck",
           fmt::format("\"rank\":{},\"message\":{}", hang_.rank, core::json_string(sentence)));
  }
  ladder_.request(request, now());
  changed_ = true;
}

// Somebody may remove the directory, or the lock in it, while ranks train: the coordinator must not
// take that for the end.
void Supervisor::keep_directory() {
  if (now() - looked_at_directory_ns_ < kSecond / 4) return;
  looked_at_directory_ns_ = now();
  const bool whole = inode_of(directory_ + "/lock") == lock_inode_ &&
                     inode_of(directory_ + "/launch.json") != 0 &&
                     inode_of(directory_ + "/spool.jsonl") != 0;
  if (whole) return;
  try {
    make_directory_again();
  } catch (const std::exception&) {
    // The next look tries again.
  }
}

void Supervisor::make_directory_again() {
  std::filesystem::create_directories(std::filesystem::path(directory_).parent_path());
  if (mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST) fail("make the directory again");
  if (inode_of(directory_ + "/lock") != lock_inode_) {
    // Under its name it is never seen without its lock.
    const std::string made = directory_ + "/lock.new";
    unlink(made.c_str());
    Descriptor lock(open(made.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!lock || flock(lock.get(), LOCK_EX | LOCK_NB) != 0 ||
        rename(made.c_str(), (directory_ + "/lock").c_str()) != 0) {
      fail("lock the directory again");
    }
    lock_ = std::move(lock);
  }
  if (!write_file(directory_, "launch.json", to_text(to_json(spec_)), true)) {
    fail("write launch.json again");
  }
  identify();
  if (chdir(directory_.c_str()) != 0) fail("enter the directory again");
  if (logs_) logs_->make_folder_again(directory_);
  listener_.reset();
  listener_.emplace(directory_);
  watch(listener_->fd());
  note("directory_made_again");
  changed_ = true;
  publish();
}

void Supervisor::note(const std::string& kind, const std::string& members) {
  const std::string line = fmt::format("{{\"version\":1,\"time_ns\":{},\"kind\":\"{}\"{}{}}}\n",
                                       now(), kind, members.empty() ? "" : ",", members);
  // For people; a full disk must not get in the way of anything.
  if (write(spool_.get(), line.data(), line.size()) < 0) return;
}

}  // namespace lockstep::coordinator
