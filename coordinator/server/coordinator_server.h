#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/model/coordinator_config.h"

namespace lockstep::coordinator {

class Engine;
class ServerLog;
class ServerMetrics;

// The engine on the network: the services of lockstep.v1, grpc.health.v1 and reflection, on every
// address of the configuration. Listens from construction to shutdown.
class CoordinatorServer {
 public:
  // Throws core::Error(kConfig) where it may not or cannot listen. `on_shutdown_request` is called
  // when an administrator asks for an end; it must return at once. References outlive the server.
  CoordinatorServer(Engine& engine, const CoordinatorConfig& config, ServerLog& log,
                    ServerMetrics& metrics, std::function<void()> on_shutdown_request);
  ~CoordinatorServer();
  CoordinatorServer(const CoordinatorServer&) = delete;
  CoordinatorServer& operator=(const CoordinatorServer&) = delete;

  // Where it listens, with the ports that were taken for port 0.
  const std::vector<ListenAddress>& addresses() const;
  // The port of GET /metrics on 127.0.0.1; 0: none.
  int metrics_port() const;

  // Whether a socket file that it made is no longer there: nobody new can reach it then.
  bool lost_a_socket() const;

  // What grpc.health.v1 tells. Calls are served either way.
  void set_serving(bool serving);

  // Health says NOT_SERVING, streams and waiting calls end with UNAVAILABLE, calls that have begun
  // are finished (at most 5 s), then nothing listens. Training goes on. May be called twice.
  void shutdown();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace lockstep::coordinator
