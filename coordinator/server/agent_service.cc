#include <grpcpp/grpcpp.h>

#include "coordinator/server/conversions.h"
#include "coordinator/server/rpc_error.h"
#include "coordinator/server/services.h"
#include "coordinator/server/unary_call.h"
#include "lockstep/v1/agent_service.grpc.pb.h"

namespace lockstep::coordinator {
namespace {

using Call = std::shared_ptr<UnaryCall>;

constexpr std::size_t kMaxNameBytes = 256;

void check_text(const std::string& text, const char* field) {
  if (text.size() > kMaxNameBytes) {
    throw invalid_field(field, "expected at most " + std::to_string(kMaxNameBytes) + " bytes");
  }
}

class AgentService final : public v1::AgentService::CallbackService {
 public:
  explicit AgentService(ServerState& state) : state_(state), engine_(state.engine) {}

  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context,
                                     const v1::RegisterRequest* request,
                                     v1::RegisterResponse* response) override {
    return serve(state_, context, "lockstep.v1.AgentService/Register", *request,
                 [=, this](const Call&) {
                   check_text(request->host(), "host");
                   engine_.register_agent(from_proto(*request));
                   *response->mutable_heartbeat_interval() = duration_message(kSecond);
                 });
  }

  grpc::ServerUnaryReactor* Heartbeat(grpc::CallbackServerContext* context,
                                      const v1::HeartbeatRequest* request,
                                      v1::HeartbeatResponse* response) override {
    return serve(
        state_, context, "lockstep.v1.AgentService/Heartbeat", *request, [=, this](const Call&) {
          check_text(request->phase(), "phase");
          const BeatAnswer answer = engine_.heartbeat(from_proto(*request));
          response->set_control(static_cast<v1::Control>(answer.control));
          response->set_control_id(answer.control_id);
          *response->mutable_heartbeat_interval() = duration_message(answer.heartbeat_interval_ns);
        });
  }

 private:
  ServerState& state_;
  Engine& engine_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_agent_service(ServerState& state) {
  return std::make_unique<AgentService>(state);
}

}  // namespace lockstep::coordinator
