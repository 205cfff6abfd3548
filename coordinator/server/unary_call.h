#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "coordinator/server/server_state.h"

namespace lockstep::coordinator {

// One unary call from the moment it was let in until it is answered.
class UnaryCall {
 public:
  UnaryCall(ServerState& state, grpc::CallbackServerContext& context, const MethodRule& rule,
            const google::protobuf::Message& request);

  const Principal& principal() const { return principal_; }
  const Caller& caller() const { return principal_.caller; }
  // Steady; the caller's deadline, or 30 s after the call came.
  std::int64_t deadline_ns() const { return deadline_ns_; }
  bool cancelled() const { return context_.IsCancelled(); }

  // Who says so answers the call later, by finish(), from any thread. A call is answered once.
  void answer_later() { later_ = true; }
  // Request and response must not be touched any more afterwards.
  void finish(const grpc::Status& status);

 private:
  friend grpc::ServerUnaryReactor* serve(ServerState& state, grpc::CallbackServerContext* context,
                                         const char* method,
                                         const google::protobuf::Message& request,
                                         std::function<void(const std::shared_ptr<UnaryCall>&)>);
  void admit(const google::protobuf::Message& request);
  void refused(const EngineError& error);
  void work(const std::function<void(const std::shared_ptr<UnaryCall>&)>& body,
            const std::shared_ptr<UnaryCall>& self);

  ServerState& state_;
  grpc::CallbackServerContext& context_;
  grpc::ServerUnaryReactor* reactor_;
  const MethodRule& rule_;
  const std::int64_t begin_ns_;
  std::int64_t deadline_ns_;
  Principal principal_;
  std::string run_;         // for the log
  std::string request_id_;  // for the log
  bool later_ = false;
};

// Lets the call in, runs `body` on the method's lane, and answers with OK, or with what it threw.
// `method` must be in the method table. `body` fills in the response; it must not use request or
// response after UnaryCall::finish.
grpc::ServerUnaryReactor* serve(ServerState& state, grpc::CallbackServerContext* context,
                                const char* method, const google::protobuf::Message& request,
                                std::function<void(const std::shared_ptr<UnaryCall>&)> body);

// "OK", "NOT_FOUND", ...
std::string code_name(grpc::StatusCode code);

}  // namespace lockstep::coordinator
