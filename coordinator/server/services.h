#pragma once

#include <memory>

namespace grpc {
class Service;
class CallbackGenericService;
}  // namespace grpc

namespace lockstep::coordinator {

struct ServerState;

// The services, each in a file of its own. They hold nothing but the state, which must outlive
// them.
std::unique_ptr<grpc::Service> make_run_service(ServerState& state);
std::unique_ptr<grpc::Service> make_cluster_service(ServerState& state);
std::unique_ptr<grpc::Service> make_admin_service(ServerState& state);
std::unique_ptr<grpc::Service> make_agent_service(ServerState& state);
// grpc.reflection.v1alpha: descriptions of the services of this server, for tools.
std::unique_ptr<grpc::Service> make_reflection_service(ServerState& state);
// Refuses every method that no other service has.
std::unique_ptr<grpc::CallbackGenericService> make_refusing_service(ServerState& state);

}  // namespace lockstep::coordinator
