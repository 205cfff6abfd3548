#include <grpcpp/grpcpp.h>
#include <algorithm>
#include <filesystem>

#include "coordinator/server/conversions.h"
#include "coordinator/server/rpc_error.h"
#include "coordinator/server/run_list.h"
#include "coordinator/server/server_limits.h"
#include "coordinator/server/services.h"
#include "coordinator/server/unary_call.h"
#include "core/build_config.h"
#include "lockstep/v1/admin_service.grpc.pb.h"

namespace lockstep::coordinator {
namespace {

using Call = std::shared_ptr<UnaryCall>;
using Context = grpc::CallbackServerContext;
using Reactor = grpc::ServerUnaryReactor;

// Names that the server itself writes where the name of a caller stands.
void check_token_name(const std::string& name) {
  for (const char* reserved : {"local", "agent", "coordinator", "scheduler"}) {
    if (name == reserved) {
      throw invalid_field("name", "'" + name + "' is a name of the server's own; take another");
    }
  }
}

class AdminService final : public v1::AdminService::CallbackService {
 public:
  explicit AdminService(ServerState& state) : state_(state), engine_(state.engine) {}

  Reactor* GetServerInfo(Context* context, const v1::GetServerInfoRequest* request,
                         v1::ServerInfo* response) override {
    return serve(state_, context, "lockstep.v1.AdminService/GetServerInfo", *request,
                 [=, this](const Call& call) { describe(call->principal(), response); });
  }

  Reactor* CreateToken(Context* context, const v1::CreateTokenRequest* request,
                       v1::CreateTokenResponse* response) override {
    return serve(state_, context, "lockstep.v1.AdminService/CreateToken", *request,
                 [=, this](const Call& call) {
                   check_token_name(request->name());
                   const CreatedToken created =
                       engine_.create_token(from_proto(*request), call->caller());
                   *response->mutable_token() = to_proto(created.token);
                   response->set_secret(created.secret);
                 });
  }

  Reactor* ListTokens(Context* context, const v1::ListTokensRequest* request,
                      v1::ListTokensResponse* response) override {
    return serve(state_, context, "lockstep.v1.AdminService/ListTokens", *request,
                 [=, this](const Call&) {
                   for (const TokenInfo& token : engine_.tokens())
                     *response->add_tokens() = to_proto(token);
                 });
  }

  Reactor* RevokeToken(Context* context, const v1::RevokeTokenRequest* request,
                       v1::Token* response) override {
    return serve(state_, context, "lockstep.v1.AdminService/RevokeToken", *request,
                 [=, this](const Call& call) {
                   *response = to_proto(engine_.revoke_token(request->name(), request->request_id(),
                                                             call->caller()));
                 });
  }

  Reactor* ListAuditEvents(Context* context, const v1::ListAuditEventsRequest* request,
                           v1::ListAuditEventsResponse* response) override {
    return serve(state_, context, "lockstep.v1.AdminService/ListAuditEvents", *request,
                 [=, this](const Call&) { list_audit(*request, response); });
  }

  Reactor* BackupStore(Context* context, const v1::BackupStoreRequest* request,
                       v1::BackupStoreResponse* response) override {
    return serve(state_, context, "lockstep.v1.AdminService/BackupStore", *request,
                 [=, this](const Call& call) {
                   if (!std::filesystem::path(request->path()).is_absolute()) {
                     throw invalid_field("path",
                                         "expected an absolute path of a new file on the "
                                         "coordinator's host");
                   }
                   response->set_bytes(engine_.backup(request->path(), call->caller()));
                 });
  }

  Reactor* CheckStore(Context* context, const v1::CheckStoreRequest* request,
                      v1::CheckStoreResponse* response) override {
    return serve(
        state_, context, "lockstep.v1.AdminService/CheckStore", *request, [=, this](const Call&) {
          const StoreCheck check = engine_.check_store();
          response->set_ok(check.ok);
          response->mutable_problems()->Assign(check.problems.begin(), check.problems.end());
          response->set_runs(check.runs);
          response->set_events(check.events);
          response->set_audit_events(check.audit_events);
        });
  }

  Reactor* AdoptAttempt(Context* context, const v1::AdoptAttemptRequest* request,
                        v1::Run* response) override {
    return serve(state_, context, "lockstep.v1.AdminService/AdoptAttempt", *request,
                 [=, this](const Call& call) {
                   *response = to_proto(
                       *engine_.adopt(request->name(), request->request_id(), call->caller()),
                       Texts::kWithout);
                 });
  }

  Reactor* EndAttempt(Context* context, const v1::EndAttemptRequest* request,
                      v1::EndAttemptResponse*) override {
    return serve(state_, context, "lockstep.v1.AdminService/EndAttempt", *request,
                 [=, this](const Call& call) {
                   engine_.end_unknown(request->name(), request->force(), request->request_id(),
                                       call->caller());
                 });
  }

  Reactor* ShutdownServer(Context* context, const v1::ShutdownServerRequest* request,
                          v1::ShutdownServerResponse*) override {
    return serve(state_, context, "lockstep.v1.AdminService/ShutdownServer", *request,
                 [=, this](const Call& call) {
                   state_.log.write(core::LogLevel::kInfo, "shutdown_requested",
                                    {{"caller", call->caller().name}});
                   state_.request_shutdown();
                 });
  }

 private:
  void describe(const Principal& principal, v1::ServerInfo* info) const {
    info->set_version(std::string(core::kVersion));
    info->add_api_versions("lockstep.v1");
    info->set_schema_version(engine_.schema_version());
    info->set_address(state_.config.listen.front().text());
    info->set_state_directory(state_.config.state_directory.string());
    *info->mutable_start_time() = timestamp_message(state_.start_time_ns);
    for (const auto& [name, value] : server_limits(state_.config.limits))
      (*info->mutable_limits())[name] = value;
    for (const char* capability : {"checkpoint", "delete", "dependencies", "environment", "explain",
                                   "logs", "metrics", "pause", "retry", "validate_only", "watch"}) {
      info->add_capabilities(capability);
    }
    for (const PendingReason& unknown : engine_.unknown_attempts())
      info->add_unknown_attempts(unknown.message);
    info->set_caller(principal.caller.name);
    const std::pair<const char*, std::uint8_t> scopes[] = {{"read", Scopes::kRead},
                                                           {"submit", Scopes::kSubmit},
                                                           {"operate", Scopes::kOperate},
                                                           {"admin", Scopes::kAdmin}};
    for (const auto& [name, scope] : scopes) {
      if (principal.scopes.has(scope)) info->add_caller_scopes(name);
    }
  }

  void list_audit(const v1::ListAuditEventsRequest& request,
                  v1::ListAuditEventsResponse* response) const {
    if (request.page_size() < 0) throw invalid_field("page_size", "expected 0 (100) to 1000");
    const int limit = request.page_size() == 0 ? 100 : std::min(request.page_size(), 1000);
    std::size_t bytes = 0;
    for (const AuditEvent& event : engine_.audit_events(request.after_sequence(), limit)) {
      const v1::AuditEvent message = to_proto(event);
      bytes += message.ByteSizeLong() + 8;
      if (bytes > kMaxPageBytes && response->events_size() > 0) return;
      *response->add_events() = message;
    }
  }

  ServerState& state_;
  Engine& engine_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_admin_service(ServerState& state) {
  return std::make_unique<AdminService>(state);
}

}  // namespace lockstep::coordinator
