#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/attempts/descriptor.h"

// Processes that are proved to be the ones that are meant. A process id alone proves nothing: ids
// are used again. Nothing here ever signals a bare id.
namespace lockstep::coordinator {

// Of this start of the machine.
std::string boot_id();

// /proc/PID/NAME; empty if the process is gone or does not show it.
std::string read_proc(pid_t pid, const std::string& name);

// From /proc/PID/stat.
struct ProcessStat {
  pid_t pid = 0;
  pid_t parent = 0;
  char state = '?';               // R, S, D, T, Z, ...
  std::uint64_t start_ticks = 0;  // clock ticks from boot to its start
  int wait_status = 0;            // of a zombie, as waitpid gives it
};
std::optional<ProcessStat> read_stat(pid_t pid);

// One process, held by a pidfd: whatever becomes of its id, this never means another one.
class ProcessHandle {
 public:
  // Nothing if it has ended, is a zombie, or belongs to another user.
  static std::optional<ProcessHandle> open(pid_t pid);

  pid_t pid() const { return pid_; }
  std::uint64_t start_ticks() const { return start_ticks_; }
  int fd() const { return fd_.get(); }  // readable once it has ended

  bool ended() const;
  // False if it has ended already or may not be signalled.
  bool send(int signal) const;
  // How it ended, as waitpid would tell, also when another process is its parent: from a kernel
  // that keeps it with the pidfd (6.15 and later), or while its parent has not asked yet.
  std::optional<int> wait_status() const;

 private:
  ProcessHandle(pid_t pid, Descriptor fd, std::uint64_t start_ticks)
      : pid_(pid), fd_(std::move(fd)), start_ticks_(start_ticks) {}

  pid_t pid_ = 0;
  Descriptor fd_;
  std::uint64_t start_ticks_ = 0;
};

// Everything alive that descends from `ancestor`, itself not. What is orphaned below a child
// subreaper still descends from it.
std::vector<ProcessHandle> descendants_of(pid_t ancestor);

// Whether `pid` descends from `ancestor`.
bool descends_from(pid_t pid, pid_t ancestor);

// Every living process of this user with NAME=VALUE in the environment that it was started with;
// this process not.
std::vector<ProcessHandle> processes_with_variable(const std::string& name,
                                                   const std::string& value);

// Whether a process of this user is `... supervise ... DIRECTORY`.
bool is_supervised(const std::string& directory);

// Whether the process has this very file open (same device and inode).
bool has_open(const ProcessHandle& process, const std::string& path);

// "1234 (python3, state D)", for people.
std::string describe_process(const ProcessHandle& process);

// Processes that the kernel of this machine has ended for want of memory since it was started.
std::int64_t count_memory_kills();

}  // namespace lockstep::coordinator
