#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace lockstep::coordinator {

// gRPC's canonical codes, same numbers: what the server answers.
enum class ErrorCode : std::uint8_t {
  kInvalidArgument = 3,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kInternal = 13,
  kUnavailable = 14,
  kUnauthenticated = 16,
};

const char* to_string(ErrorCode code);  // "INVALID_ARGUMENT", ...

struct FieldViolation {
  std::string field;        // "run.config_yaml", "run.resources.ranks"
  std::string description;  // for configurations "FILE:LINE:COLUMN: key: what is wrong"

  bool operator==(const FieldViolation&) const = default;
};

// A request that the engine refuses. Nothing has been changed. `reason` is one word in UPPER_SNAKE
// that programs may rely upon (ErrorInfo.reason), `metadata` goes with it:
//   NOT_FOUND                 RUN_NOT_FOUND, HOST_NOT_FOUND, TOKEN_NOT_FOUND, AMBIGUOUS_RUN
//   INVALID_ARGUMENT          INVALID_FIELD, INVALID_CONFIG, INVALID_REQUEST_ID
//   FAILED_PRECONDITION       WRONG_STATE {state, allowed}, CANNOT_FIT, OUTPUT_IN_USE, STALE_FENCE,
//                             NO_CHECKPOINT, QUARANTINED, UNKNOWN_ATTEMPT, CANNOT_ADOPT
//   ALREADY_EXISTS            TOKEN_EXISTS, REQUEST_ID_REUSED
//   ABORTED                   ETAG_MISMATCH
//   RESOURCE_EXHAUSTED        QUEUE_FULL, DISK_FULL
//   UNAVAILABLE               STORE_ERROR
class EngineError : public std::runtime_error {
 public:
  EngineError(ErrorCode code, std::string reason, const std::string& message)
      : std::runtime_error(message), code_(code), reason_(std::move(reason)) {}

  EngineError& with(const std::string& key, const std::string& value) {
    metadata_[key] = value;
    return *this;
  }
  EngineError& violates(const std::string& field, const std::string& description) {
    violations_.push_back({field, description});
    return *this;
  }
  EngineError& retry_after(std::int64_t delay_ns) {
    retry_after_ns_ = delay_ns;
    return *this;
  }

  ErrorCode code() const { return code_; }
  const std::string& reason() const { return reason_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::vector<FieldViolation>& violations() const { return violations_; }
  std::int64_t retry_after_ns() const { return retry_after_ns_; }  // 0: none

 private:
  ErrorCode code_;
  std::string reason_;
  std::map<std::string, std::string> metadata_;
  std::vector<FieldViolation> violations_;
  std::int64_t retry_after_ns_ = 0;
};

}  // namespace lockstep::coordinator
