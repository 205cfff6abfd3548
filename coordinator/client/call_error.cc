#include "coordinator/client/call_error.h"

#include <fmt/format.h>

#include <iterator>

#include "google/rpc/error_details.pb.h"

namespace lockstep::coordinator {
namespace {

// google.rpc.Code, which gRPC's codes are.
enum Code {
  kCancelled = 1,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnavailable = 14,
  kUnauthenticated = 16,
};

const char* words_of(int code) {
  static constexpr const char* kWords[] = {"ok",
                                           "cancelled",
                                           "unknown error",
                                           "not accepted",
                                           "no answer in time",
                                           "not found",
                                           "exists already",
                                           "not allowed",
                                           "at its limit",
                                           "not possible now",
                                           "conflict",
                                           "out of range",
                                           "not built here",
                                           "internal error of the coordinator",
                                           "unreachable",
                                           "data loss",
                                           "who are you"};
  const bool known = code >= 0 && code < static_cast<int>(std::size(kWords));
  return known ? kWords[code] : "unknown error";
}

}  // namespace

CallError::CallError(int code, const std::string& message, const std::string& details)
    : std::runtime_error(message), code_(code) {
  google::rpc::Status status;
  if (!status.ParseFromString(details)) return;
  for (const google::protobuf::Any& any : status.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&info)) {
      reason_ = info.reason();
    } else if (any.UnpackTo(&bad)) {
      for (const auto& violation : bad.field_violations()) {
        violations_.push_back(violation.field().empty()
                                  ? violation.description()
                                  : violation.field() + ": " + violation.description());
      }
    } else if (any.UnpackTo(&retry)) {
      retry_seconds_ =
          static_cast<double>(retry.retry_delay().seconds()) + 1e-9 * retry.retry_delay().nanos();
    }
  }
}

bool CallError::is_unavailable() const {
  // A server that is being stopped cancels what it has not finished.
  return code_ == kUnavailable || code_ == kCancelled;
}

bool CallError::is_momentary() const {
  return code_ == kResourceExhausted && reason_ == "RATE_LIMITED";
}

JobExit CallError::exit() const {
  switch (code_) {
    case kInvalidArgument:
      return JobExit::kUsage;
    case kNotFound:
    case kPermissionDenied:
    case kUnauthenticated:
      return JobExit::kNotFound;
    case kAlreadyExists:
    case kResourceExhausted:
    case kFailedPrecondition:
    case kAborted:
    case kOutOfRange:
      return JobExit::kConflict;
    default:
      return JobExit::kUnreachable;
  }
}

std::string CallError::text() const {
  std::string text = fmt::format("{}: {}", words_of(code_), what());
  for (const std::string& violation : violations_) {
    // A message of one violation often is that violation.
    if (text.find(violation) == std::string::npos) text += "\n  " + violation;
  }
  if (retry_seconds_ > 0.0) text += fmt::format("\n  try again in {:.1f} s", retry_seconds_);
  return text;
}

}  // namespace lockstep::coordinator
