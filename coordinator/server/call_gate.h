#pragma once

#include <cstdint>
#include <string>

#include "coordinator/engine/engine.h"
#include "coordinator/model/coordinator_config.h"
#include "coordinator/server/method_table.h"
#include "coordinator/server/rate_limiter.h"

namespace google::protobuf {
class Message;
}
namespace grpc {
class ServerContextBase;
}

namespace lockstep::coordinator {

// Who calls, as far as the server could make sure.
struct Principal {
  Caller caller;  // name of the token, "local", or "agent"
  Scopes scopes;
  std::string secret;  // of the token; empty for "local". Asked about again in long calls.
};

// Lets calls in or not: finds out who calls, counts the call against the caller's allowance, and
// compares what the method needs with what the caller holds. Everything that is not allowed is
// refused. Thread-safe; never waits for the disk.
//
// A token comes in the metadata as "authorization: Bearer SECRET". Without one, a caller on the
// Unix socket is "local" and may do everything: the socket's permissions let only this user
// connect.
class CallGate {
 public:
  CallGate(Engine& engine, const LimitConfig& limits) : engine_(engine), limits_(limits) {}

  // Throws EngineError: UNAUTHENTICATED (NO_TOKEN, BAD_TOKEN), PERMISSION_DENIED (MISSING_SCOPE),
  // RESOURCE_EXHAUSTED (RATE_LIMITED). `request`: nullptr for a stream of requests. `principal`
  // tells who it is as soon as that is known, also of one who is refused then.
  void admit(const grpc::ServerContextBase& context, const MethodRule& rule,
             const google::protobuf::Message* request, Principal& principal);

  // Whether a long call may go on; false once its token has been revoked or has expired.
  bool still_valid(const Principal& principal) const;

 private:
  Principal identify(const grpc::ServerContextBase& context) const;
  void check_agent(const std::string& secret, const google::protobuf::Message* request) const;
  bool agent_secret_fits(const AttemptRef& ref, const std::string& hash) const;
  void check_scope(const Principal& principal, const MethodRule& rule,
                   const google::protobuf::Message* request) const;

  int max_priority(const Scopes& scopes) const;

  Engine& engine_;
  const LimitConfig limits_;
  RateLimiter limiter_;
};

// The text of a field of a request, "" if it has none of that name; for `name`, also run.name.
std::string field_of(const google::protobuf::Message& request, const char* field);

// Now, on a clock that never goes back, in nanoseconds.
std::int64_t steady_ns();

}  // namespace lockstep::coordinator
