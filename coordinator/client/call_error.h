#pragma once

#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

namespace lockstep::coordinator {

// Exit codes of the job-control commands (documented in docs/job_control.md, relied upon from
// outside).
enum class JobExit : int {
  kOk = 0,
  kRunFailed = 1,
  kUsage = 2,
  kCancelled = 3,
  kStillGoing = 4,  // the wait timed out, or its user left it
  kNotFound = 5,    // or denied
  kUnreachable = 6,
  kConflict = 7,
};

// What the coordinator answered instead of a result, or that it did not answer.
class CallError : public std::runtime_error {
 public:
  // `code` is the canonical code of gRPC; `details` the bytes of google.rpc.Status, may be empty.
  CallError(int code, const std::string& message, const std::string& details);

  int code() const { return code_; }
  const std::string& reason() const { return reason_; }  // of ErrorInfo; empty: none
  // Nobody answered, or who did is going away: the same call may be made again.
  bool is_unavailable() const;
  // It was refused for the moment only: too many calls.
  bool is_momentary() const;
  double retry_seconds() const {
    return retry_seconds_;
  }  // what the coordinator asks for; 0: nothing
  JobExit exit() const;

  // For people: "not found: there is no run 'x'", then a line for each field that is wrong and what
  // to do.
  std::string text() const;

 private:
  int code_;
  std::string reason_{};
  std::vector<std::string> violations_{};
  double retry_seconds_ = 0.0;  // 0: not said
};

// A user's Ctrl-C ended a call.
class Interrupted : public std::exception {};

}  // namespace lockstep::coordinator
