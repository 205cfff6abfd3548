#include "coordinator/server/coordinator_server.h"

#include <fmt/format.h>
#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "coordinator/model/secrets.h"
#include "coordinator/server/metrics_endpoint.h"
#include "coordinator/server/server_state.h"
#include "coordinator/server/server_transport.h"
#include "coordinator/server/services.h"
#include "core/error.h"

namespace lockstep::coordinator {
namespace {

constexpr std::chrono::seconds kDrainTime(5);

bool has_good_token(const Engine& engine, std::int64_t now_ns) {
  const std::vector<TokenInfo> tokens = engine.tokens();
  return std::any_of(tokens.begin(), tokens.end(), [now_ns](const TokenInfo& token) {
    return !token.revoked && (token.expire_time_ns == 0 || token.expire_time_ns > now_ns);
  });
}

}  // namespace

struct CoordinatorServer::Parts {
  Parts(Engine& engine, const CoordinatorConfig& config, ServerLog& log, ServerMetrics& metrics,
        std::function<void()> on_shutdown_request)
      : state(engine, config, log, metrics,
              load_or_make_key(config.state_directory / "page_token.key"),
              std::move(on_shutdown_request)) {}

  void listen();
  void check_port(const ListenAddress& address, int port);

  ServerState state;
  std::vector<std::unique_ptr<grpc::Service>> services;
  std::unique_ptr<grpc::CallbackGenericService> refusing;
  std::vector<ListenAddress> addresses;
  std::vector<std::pair<ListenAddress, std::uint64_t>>
      sockets;  // those of files, with their inodes
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<MetricsEndpoint> metrics_endpoint;
};

void CoordinatorServer::Parts::listen() {
  for (auto* make : {&make_run_service, &make_cluster_service, &make_admin_service,
                     &make_agent_service, &make_reflection_service}) {
    services.push_back(make(state));
  }
  refusing = make_refusing_service(state);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  set_transport_options(builder);
  for (const auto& service : services)
    builder.RegisterService(service.get());
  builder.RegisterCallbackGenericService(refusing.get());
  const auto tcp_credentials = make_tcp_credentials(state.config.tls);
  addresses = state.config.listen;
  std::vector<int> ports(addresses.size(), -1);
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    if (addresses[i].is_unix) remove_stale_socket(addresses[i]);
    builder.AddListeningPort(
        addresses[i].text(),
        addresses[i].is_unix ? grpc::InsecureServerCredentials() : tcp_credentials, &ports[i]);
  }
  server = builder.BuildAndStart();
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    if (server == nullptr || ports[i] <= 0) {
      throw core::Error(core::ErrorKind::kConfig,
                        fmt::format("listen: cannot listen on {}; another program may have the "
                                    "port, or this machine has no such address",
                                    addresses[i].text()));
    }
    if (addresses[i].is_unix) {
      restrict_socket(addresses[i]);
      sockets.emplace_back(addresses[i], socket_inode(addresses[i]));
    } else {
      addresses[i].port = ports[i];
    }
  }
}

CoordinatorServer::CoordinatorServer(Engine& engine, const CoordinatorConfig& config,
                                     ServerLog& log, ServerMetrics& metrics,
                                     std::function<void()> on_shutdown_request) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  check_listen_addresses(
      config,
      has_good_token(engine, std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()));
  parts_ = std::make_unique<Parts>(engine, config, log, metrics, std::move(on_shutdown_request));
  parts_->listen();
  if (config.metrics_port != 0) {
    ServerState& state = parts_->state;
    parts_->metrics_endpoint = std::make_unique<MetricsEndpoint>(config.metrics_port, [&state] {
      return state.metrics.text(state.engine, state.long_calls.count(LongCalls::Kind::kStream),
                                state.long_calls.count(LongCalls::Kind::kWait),
                                std::chrono::duration_cast<std::chrono::nanoseconds>(
                                    std::chrono::system_clock::now().time_since_epoch())
                                    .count());
    });
  }
  set_serving(true);
}

CoordinatorServer::~CoordinatorServer() {
  shutdown();
}

const std::vector<ListenAddress>& CoordinatorServer::addresses() const {
  return parts_->addresses;
}

int CoordinatorServer::metrics_port() const {
  return parts_->metrics_endpoint == nullptr ? 0 : parts_->metrics_endpoint->port();
}

bool CoordinatorServer::lost_a_socket() const {
  const auto& sockets = parts_->sockets;
  return std::any_of(sockets.begin(), sockets.end(), [](const auto& socket) {
    return socket_inode(socket.first) != socket.second;
  });
}

void CoordinatorServer::set_serving(bool serving) {
  if (parts_->server == nullptr) return;
  grpc::HealthCheckServiceInterface* health = parts_->server->GetHealthCheckService();
  if (health != nullptr) health->SetServingStatus(serving);
}

void CoordinatorServer::shutdown() {
  if (parts_ == nullptr || parts_->server == nullptr) return;
  parts_->metrics_endpoint.reset();
  set_serving(false);
  parts_->state.long_calls.stop();
  parts_->server->Shutdown(std::chrono::system_clock::now() + kDrainTime);
  parts_->server->Wait();
  parts_->server.reset();
  parts_->state.lanes.stop();
  for (const auto& [address, inode] : parts_->sockets) {
    if (socket_inode(address) == inode) remove_stale_socket(address);  // and no other one
  }
}

}  // namespace lockstep::coordinator
