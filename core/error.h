#pragma once

#include <stdexcept>
#include <string>

namespace lockstep::core {

// What went wrong, in the classes that a user, a script or a scheduler acts on. The numeric value
// is the exit code of the process (documented in docs/operations.md; relied upon from outside).
enum class ErrorKind {
  kInternal = 1,       // a broken invariant: a bug in Lockstep
  kConfig = 2,         // configuration or usage
  kData = 3,           // data file or checkpoint unreadable
  kDiverged = 4,       // the numerics of the run
  kCommunication = 5,  // a lost rank, or ranks that disagree
  kOutOfMemory = 6,    // host or device memory
  kStopped = 7,        // stopped on request; the run can be resumed
};

// The one exception type. Thrown where the fault is found; caught once, at an edge (main, a thread,
// an RPC handler). The message says what was expected, what was found, where, and how to fix it.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}

  ErrorKind kind() const noexcept { return kind_; }
  int exit_code() const noexcept { return static_cast<int>(kind_); }

 private:
  ErrorKind kind_;
};

// "internal error", "configuration error", ...: the words in front of a message shown to a person.
const char* describe(ErrorKind kind) noexcept;

}  // namespace lockstep::core
