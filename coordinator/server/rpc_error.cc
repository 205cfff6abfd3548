#include "coordinator/server/rpc_error.h"

#include <new>

#include "coordinator/server/conversions.h"
#include "core/error.h"
#include "google/rpc/error_details.pb.h"

namespace lockstep::coordinator {
namespace {

constexpr std::size_t kMaxMessageBytes = 4096;     // of one text
constexpr std::size_t kMaxDetailBytes = 6 * 1024;  // gRPC refuses more than 8 KiB of trailers
constexpr std::int64_t kDefaultRetryNs = kSecond;

// Cuts at a character of UTF-8, which protobuf insists on.
std::string shortened(const std::string& text, std::size_t most) {
  if (text.size() <= most) return text;
  std::size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80)
    --end;
  return text.substr(0, end) + " ...";
}

grpc::Status make_status(const EngineError& error, google::rpc::Status details) {
  const auto code = static_cast<grpc::StatusCode>(error.code());
  details.set_code(static_cast<int>(error.code()));
  const std::string message = shortened(error.what(), kMaxMessageBytes / 4);
  details.set_message(message);
  return {code, message, details.SerializeAsString()};
}

void add_violations(const EngineError& error, google::rpc::Status& details) {
  google::rpc::BadRequest request;
  std::size_t bytes = 0;
  for (const FieldViolation& violation : error.violations()) {
    bytes += violation.field.size() + violation.description.size() + 16;
    if (bytes > kMaxDetailBytes / 2 && request.field_violations_size() > 0) break;
    google::rpc::BadRequest::FieldViolation* added = request.add_field_violations();
    added->set_field(shortened(violation.field, 256));
    added->set_description(shortened(violation.description, kMaxMessageBytes / 2));
  }
  if (request.field_violations_size() > 0) details.add_details()->PackFrom(request);
}

}  // namespace

grpc::Status to_status(const EngineError& error) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  info.set_reason(error.reason());
  info.set_domain("lockstep");
  for (const auto& [key, value] : error.metadata())
    (*info.mutable_metadata())[key] = shortened(value, 256);
  details.add_details()->PackFrom(info);
  add_violations(error, details);
  if (error.code() == ErrorCode::kUnavailable || error.code() == ErrorCode::kResourceExhausted ||
      error.retry_after_ns() > 0) {
    google::rpc::RetryInfo retry;
    *retry.mutable_retry_delay() =
        duration_message(error.retry_after_ns() > 0 ? error.retry_after_ns() : kDefaultRetryNs);
    details.add_details()->PackFrom(retry);
  }
  return make_status(error, std::move(details));
}

grpc::Status to_status(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const EngineError& engine_error) {
    return to_status(engine_error);
  } catch (const std::bad_alloc&) {
    return to_status(EngineError(ErrorCode::kResourceExhausted, "OUT_OF_MEMORY",
                                 "the coordinator has no memory left for this call"));
  } catch (const std::exception& other) {
    return to_status(EngineError(ErrorCode::kInternal, "INTERNAL", other.what()));
  } catch (...) {
    return to_status(EngineError(ErrorCode::kInternal, "INTERNAL", "an unknown error"));
  }
}

EngineError invalid_field(const std::string& field, const std::string& message) {
  EngineError error(ErrorCode::kInvalidArgument, "INVALID_FIELD", message);
  error.violates(field, message);
  return error;
}

}  // namespace lockstep::coordinator
