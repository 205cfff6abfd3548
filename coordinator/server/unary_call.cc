#include "coordinator/server/unary_call.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "coordinator/server/rpc_error.h"

namespace lockstep::coordinator {
namespace {

constexpr std::int64_t kDefaultDeadlineNs = 30 * kSecond;

std::int64_t deadline_of(const grpc::CallbackServerContext& context, std::int64_t now_ns) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  const std::int64_t left_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
  // Without a deadline of the caller gRPC says the end of time.
  const bool none = left > std::chrono::hours(24 * 365);
  return now_ns + (none ? kDefaultDeadlineNs : std::max<std::int64_t>(0, left_ns));
}

}  // namespace

std::string code_name(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return "OK";
    case grpc::StatusCode::CANCELLED:
      return "CANCELLED";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::UNIMPLEMENTED:
      return "UNIMPLEMENTED";
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::DATA_LOSS:
    case grpc::StatusCode::DO_NOT_USE:
      return "UNKNOWN";
    default:
      return to_string(static_cast<ErrorCode>(code));
  }
}

UnaryCall::UnaryCall(ServerState& state, grpc::CallbackServerContext& context,
                     const MethodRule& rule, const google::protobuf::Message& request)
    : state_(state),
      context_(context),
      reactor_(context.DefaultReactor()),
      rule_(rule),
      begin_ns_(steady_ns()),
      deadline_ns_(deadline_of(context, begin_ns_)),
      run_(field_of(request, "name")),
      request_id_(field_of(request, "request_id")) {}

void UnaryCall::admit(const google::protobuf::Message& request) {
  state_.gate.admit(context_, rule_, &request, principal_);
}

// Refusals of callers that are known go to the audit log, as far as they would have changed
// something; it costs a write to the disk, so it waits its turn in the lane of changes.
void UnaryCall::refused(const EngineError& error) {
  if (!rule_.mutates || error.code() != ErrorCode::kPermissionDenied) return;
  const bool posted =
      state_.lanes.post(Lane::kMutation, [&state = state_, caller = principal_.caller,
                                          name = rule_.name, run = run_, code = error.code()] {
        try {
          state.engine.record_refusal(caller, std::string(name), run, code);
        } catch (const std::exception& failure) {
          state.log.write(core::LogLevel::kError, "audit_failed", {{"message", failure.what()}});
        }
      });
  if (!posted) state_.log.write(core::LogLevel::kError, "audit_failed", {{"message", "busy"}});
}

void UnaryCall::finish(const grpc::Status& status) {
  const double seconds = static_cast<double>(steady_ns() - begin_ns_) / 1e9;
  const std::string code = code_name(status.error_code());
  const std::string method(rule_.name);
  state_.metrics.count_call(method, code, seconds);
  nlohmann::ordered_json fields = {{"method", method},
                                   {"code", code},
                                   {"caller", principal_.caller.name},
                                   {"peer", principal_.caller.peer},
                                   {"seconds", seconds}};
  if (!run_.empty()) fields["run"] = run_;
  if (!request_id_.empty()) fields["request_id"] = request_id_;
  if (!status.ok()) fields["message"] = status.error_message();
  const bool is_bug = status.error_code() == grpc::StatusCode::INTERNAL;
  state_.log.write(is_bug          ? core::LogLevel::kError
                   : rule_.mutates ? core::LogLevel::kInfo
                                   : core::LogLevel::kDebug,
                   "call", fields);
  reactor_->Finish(status);
}

void UnaryCall::work(const std::function<void(const std::shared_ptr<UnaryCall>&)>& body,
                     const std::shared_ptr<UnaryCall>& self) {
  if (cancelled() || steady_ns() >= deadline_ns_) {
    finish(grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED,
                        "the deadline passed before the call's turn came; nothing was done"));
    return;
  }
  try {
    body(self);
  } catch (...) {
    finish(to_status(std::current_exception()));
    return;
  }
  if (!later_) finish(grpc::Status::OK);
}

grpc::ServerUnaryReactor* serve(ServerState& state, grpc::CallbackServerContext* context,
                                const char* method, const google::protobuf::Message& request,
                                std::function<void(const std::shared_ptr<UnaryCall>&)> body) {
  static constexpr MethodRule kNotInTable = {"unknown", Access::kAdmin, CallKind::kHeavy,
                                             Lane::kHeavy, false};
  const MethodRule* rule = find_method(method);
  const auto call =
      std::make_shared<UnaryCall>(state, *context, rule == nullptr ? kNotInTable : *rule, request);
  grpc::ServerUnaryReactor* reactor = call->reactor_;
  try {
    if (rule == nullptr) {
      throw EngineError(ErrorCode::kPermissionDenied, "UNKNOWN_METHOD", "no rule allows this call");
    }
    call->admit(request);
    if (!state.lanes.post(rule->lane, [call, body = std::move(body)] { call->work(body, call); })) {
      throw EngineError(ErrorCode::kUnavailable, "BUSY",
                        "the coordinator has too much to do, or is being stopped; try again");
    }
  } catch (const EngineError& error) {
    call->refused(error);
    call->finish(to_status(error));
  } catch (...) {
    call->finish(to_status(std::current_exception()));
  }
  return reactor;
}

}  // namespace lockstep::coordinator
