#include <grpcpp/grpcpp.h>

#include "coordinator/server/conversions.h"
#include "coordinator/server/rpc_error.h"
#include "coordinator/server/services.h"
#include "coordinator/server/unary_call.h"
#include "lockstep/v1/cluster_service.grpc.pb.h"

namespace lockstep::coordinator {
namespace {

using Call = std::shared_ptr<UnaryCall>;

void check_reason(const std::string& reason) {
  if (reason.size() > kMaxReasonBytes) {
    throw invalid_field("reason", "expected at most " + std::to_string(kMaxReasonBytes) + " bytes");
  }
}

class ClusterService final : public v1::ClusterService::CallbackService {
 public:
  explicit ClusterService(ServerState& state) : state_(state), engine_(state.engine) {}

  grpc::ServerUnaryReactor* ListHosts(grpc::CallbackServerContext* context,
                                      const v1::ListHostsRequest* request,
                                      v1::ListHostsResponse* response) override {
    return serve(state_, context, "lockstep.v1.ClusterService/ListHosts", *request,
                 [=, this](const Call&) {
                   for (const HostInfo& host : engine_.hosts())
                     *response->add_hosts() = to_proto(host);
                 });
  }

  grpc::ServerUnaryReactor* DrainHost(grpc::CallbackServerContext* context,
                                      const v1::DrainHostRequest* request,
                                      v1::Host* response) override {
    return serve(state_, context, "lockstep.v1.ClusterService/DrainHost", *request,
                 [=, this](const Call& call) {
                   check_reason(request->reason());
                   *response = to_proto(engine_.drain(request->host(), request->reason(),
                                                      request->stop_runs(), request->request_id(),
                                                      call->caller()));
                 });
  }

  grpc::ServerUnaryReactor* UndrainHost(grpc::CallbackServerContext* context,
                                        const v1::UndrainHostRequest* request,
                                        v1::Host* response) override {
    return serve(state_, context, "lockstep.v1.ClusterService/UndrainHost", *request,
                 [=, this](const Call& call) {
                   *response = to_proto(
                       engine_.undrain(request->host(), request->request_id(), call->caller()));
                 });
  }

 private:
  ServerState& state_;
  Engine& engine_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_cluster_service(ServerState& state) {
  return std::make_unique<ClusterService>(state);
}

}  // namespace lockstep::coordinator
