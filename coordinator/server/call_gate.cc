#include "coordinator/server/call_gate.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/server_context.h>

#include <chrono>
#include <utility>

#include "coordinator/model/secrets.h"
#include "coordinator/model/sha256.h"
#include "coordinator/server/conversions.h"

namespace lockstep::coordinator {
namespace {

constexpr std::size_t kMaxSecretBytes = 256;

// The secret of "authorization: Bearer SECRET"; first: whether there was any such metadata.
std::pair<bool, std::string> bearer_secret(const grpc::ServerContextBase& context) {
  constexpr std::string_view kScheme = "Bearer ";
  const auto range = context.client_metadata().equal_range("authorization");
  if (range.first == range.second) return {false, ""};
  const std::string_view value(range.first->second.data(), range.first->second.size());
  // Two of them could be meant for two readers; neither is believed.
  if (std::next(range.first) != range.second || !value.starts_with(kScheme) ||
      value.size() > kMaxSecretBytes) {
    return {true, ""};
  }
  return {true, std::string(value.substr(kScheme.size()))};
}

// Address, and where the transport has proved one, the name in the certificate.
std::string peer_of(const grpc::ServerContextBase& context) {
  std::string peer = context.peer();
  const auto auth = context.auth_context();
  if (auth != nullptr && auth->IsPeerAuthenticated()) {
    for (const grpc::string_ref& name : auth->GetPeerIdentity())
      peer += fmt::format(" certificate:{}", std::string_view(name.data(), name.size()));
  }
  return peer;
}

EngineError bad_token() {
  return {
      ErrorCode::kUnauthenticated, "BAD_TOKEN",
      "the token is unknown, revoked or expired; `lockstep admin token create` makes a new one"};
}

}  // namespace

std::int64_t steady_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string field_of(const google::protobuf::Message& request, const char* field) {
  const google::protobuf::Descriptor* type = request.GetDescriptor();
  const google::protobuf::FieldDescriptor* found = type->FindFieldByName(field);
  const bool is_text = found != nullptr && !found->is_repeated() &&
                       found->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_STRING;
  if (is_text) return request.GetReflection()->GetString(request, found);
  const google::protobuf::FieldDescriptor* run = type->FindFieldByName("run");
  if (run == nullptr || run->is_repeated() || run->message_type() == nullptr) return "";
  return field_of(request.GetReflection()->GetMessage(request, run), field);
}

Principal CallGate::identify(const grpc::ServerContextBase& context) const {
  Principal principal;
  principal.caller.peer = peer_of(context);
  const auto [given, secret] = bearer_secret(context);
  if (!given) {
    if (!context.peer().starts_with("unix:")) {
      throw EngineError(ErrorCode::kUnauthenticated, "NO_TOKEN",
                        "expected a token in the metadata 'authorization: Bearer TOKEN', found "
                        "none; over TCP every call needs one");
    }
    principal.caller.name = "local";
    principal.scopes.add("admin");
    return principal;
  }
  const std::optional<TokenInfo> token = engine_.authenticate(secret);
  if (!token) throw bad_token();
  principal.caller.name = token->name;
  principal.secret = secret;
  for (const std::string& scope : token->scopes)
    principal.scopes.add(scope);
  principal.caller.max_priority = max_priority(principal.scopes);
  return principal;
}

int CallGate::max_priority(const Scopes& scopes) const {
  if (scopes.has(Scopes::kAdmin)) return kMaxPriority;
  return scopes.has(Scopes::kOperate) ? limits_.priority_of_operate : limits_.priority_of_submit;
}

bool CallGate::agent_secret_fits(const AttemptRef& ref, const std::string& hash) const {
  RunPtr record;
  try {
    record = engine_.find(ref.run);
  } catch (const EngineError&) {
    return false;  // "not found" is no answer for somebody who has not shown who he is
  }
  for (const Attempt& attempt : record->attempts) {
    if (attempt.number == ref.number && record->run.id == ref.run &&
        equal_in_constant_time(attempt.agent_token_hash, hash)) {
      return true;
    }
  }
  return false;
}

// The secret must be the one that was given to the very attempt that the request speaks for, also
// when that attempt has ended: then the engine answers that it is stale.
void CallGate::check_agent(const std::string& secret,
                           const google::protobuf::Message* request) const {
  AttemptRef ref;
  if (const auto* beat = dynamic_cast<const v1::HeartbeatRequest*>(request)) {
    ref = from_proto(beat->attempt());
  } else if (const auto* registration = dynamic_cast<const v1::RegisterRequest*>(request)) {
    ref = from_proto(registration->attempt());
  }
  if (!secret.empty() && agent_secret_fits(ref, sha256_hex(secret))) return;
  throw EngineError(ErrorCode::kUnauthenticated, "BAD_TOKEN",
                    "expected the secret of the attempt that the request names");
}

void CallGate::check_scope(const Principal& principal, const MethodRule& rule,
                           const google::protobuf::Message* request) const {
  bool allowed = principal.scopes.allow(rule.access);
  if (allowed && rule.access == Access::kOwn && !principal.scopes.has(Scopes::kOperate)) {
    const std::string name = request == nullptr ? "" : field_of(*request, "name");
    allowed = engine_.find(name)->run.owner == principal.caller.name;
  }
  if (allowed) return;
  throw EngineError(ErrorCode::kPermissionDenied, "MISSING_SCOPE",
                    fmt::format("the token '{}' may not call {}; it needs the scope {}",
                                principal.caller.name, rule.name, to_string(rule.access)))
      .with("scope", to_string(rule.access));
}

void CallGate::admit(const grpc::ServerContextBase& context, const MethodRule& rule,
                     const google::protobuf::Message* request, Principal& principal) {
  std::string bucket;
  if (rule.access == Access::kAgent) {
    const std::string secret = bearer_secret(context).second;
    principal.caller = {"agent", peer_of(context)};
    check_agent(secret, request);
    bucket = "agent " + sha256_hex(secret);
  } else {
    principal = identify(context);
    bucket = principal.caller.name;
  }
  const std::int64_t wait = limiter_.take(bucket, rule.kind, steady_ns());
  if (wait > 0) {
    throw EngineError(ErrorCode::kResourceExhausted, "RATE_LIMITED",
                      "too many calls of this kind by this caller; try again a little later")
        .retry_after(wait);
  }
  if (rule.access != Access::kAgent) check_scope(principal, rule, request);
}

bool CallGate::still_valid(const Principal& principal) const {
  return principal.secret.empty() || engine_.authenticate(principal.secret).has_value();
}

}  // namespace lockstep::coordinator
