#pragma once

#include <sys/types.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "coordinator/attempts/attempt_host.h"

namespace lockstep::coordinator {

struct SupervisedAttemptsOptions {
  std::string state_directory;  // absolute; below it runs/RUN/attempts/NUMBER/
  std::string program;          // that knows supervise and rank-start; empty: this one
};

// Attempts as processes of this machine: each under a supervisor of its own, which goes on when
// this object, and its whole process, is gone.
//
// Whether a supervisor lives is known from the lock that it holds, never from a process id in a
// file. What a dead one left behind is found by the tag that all its processes carry.
class SupervisedAttempts : public AttemptHost {
 public:
  explicit SupervisedAttempts(SupervisedAttemptsOptions options);
  ~SupervisedAttempts() override;

  void launch(const LaunchSpec& spec) override;
  AttemptStatus poll(const AttemptRef& attempt) override;
  StopAnswer stop(const AttemptRef& attempt, const StopRequest& request) override;
  std::vector<FoundAttempt> find_all(const std::function<bool(const std::string&)>& skip) override;
  void set_aside(const AttemptRef& attempt) override;
  void remove(const AttemptRef& attempt) override;

 private:
  // A stop that was handed over: when the supervisor itself must be through with it.
  struct Stop {
    std::int64_t due_ns = 0;  // on the steady clock
  };

  std::string directory_of(const AttemptRef& attempt) const;
  void reap(const std::string& directory);
  static void signal_supervisor(const std::string& directory, int signal);
  void replace_stuck_supervisor(const std::string& directory);
  AttemptStatus clean_up_after_supervisor(const std::string& directory);

  const SupervisedAttemptsOptions options_;
  std::map<std::string, pid_t> supervisors_;  // by directory: those that are children
  std::set<std::string> launched_;            // directories of attempts that were started here
  std::map<std::string, Stop> stops_;         // by directory
};

}  // namespace lockstep::coordinator
