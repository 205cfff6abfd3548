#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/model/coordinator_policy.h"
#include "coordinator/model/run.h"

// coordinator.yaml. docs/job_control.md describes every key; configs/coordinator.yaml is one that
// runs.
namespace lockstep::coordinator {

struct ListenAddress {
  bool is_unix = true;
  std::filesystem::path path{};  // absolute; is_unix only
  std::string host{};            // name or address, IPv6 without brackets; not is_unix only
  std::int32_t port = 0;         // 0: any free one

  bool is_loopback() const;  // no other machine can reach it: a Unix socket, 127.0.0.0/8, ::1
  std::string text() const;  // "unix:/path", "127.0.0.1:7070", "[::1]:7070": as gRPC takes it
};

// "unix:/path", "/path", "HOST:PORT" or "[IPV6]:PORT"; throws core::Error(kConfig) that says which
// forms there are.
ListenAddress parse_listen_address(const std::string& text);

struct TlsFiles {
  std::filesystem::path certificate{};  // PEM chain; empty: no TLS
  std::filesystem::path key{};
  std::filesystem::path
      client_ca{};  // clients must show a certificate of it; empty: they need none
};

struct HostConfig {
  std::string name{};     // [A-Za-z0-9.-]{1,64}, unique
  std::string address{};  // for mpirun; default: name. "localhost" is this machine
  std::string kind = "cpu";
  std::int32_t slots = 1;  // CPU ranks, or GPUs
};

struct LimitConfig {
  std::int32_t queued_runs = 10'000;  // WAITING, QUEUED, BACKOFF and PAUSED together
  std::int32_t queued_runs_per_caller = 1'000;
  std::int32_t streams_per_caller = 16;
  std::int64_t log_bytes_per_run = std::int64_t{1} << 30;
  std::int32_t priority_of_submit = 1'000;   // highest that a token of this scope may give
  std::int32_t priority_of_operate = 1'000;  // and of this one
};

struct ServerLogConfig {
  std::filesystem::path file{};  // JSON lines; empty: standard error
  std::string level = "info";    // debug, info, warning, error
};

struct CoordinatorConfig {
  std::filesystem::path state_directory{};  // absolute
  std::vector<ListenAddress> listen{};      // at least one
  TlsFiles tls{};
  std::string agent_address{};  // where rank 0 of a run reaches the coordinator, as gRPC takes it
  std::vector<HostConfig> hosts{};  // at least one
  std::int32_t metrics_port = 0;    // on 127.0.0.1; 0: none
  LimitConfig limits{};
  RetryPolicy retry{};  // of runs that do not say otherwise
  EnvironmentPolicy environment{};
  RetentionPolicy retention{};
  HookPolicy hooks{};
  ServerLogConfig log{};
};

// The same as an empty file: the default socket and state directory of this user, and this machine
// with one slot for each core that this process may use.
CoordinatorConfig default_coordinator_config();

// Reads strictly: an unknown or duplicate key, a wrong value, an address that other machines can
// reach without tls, hosts that could not reach the coordinator. Throws core::Error(kConfig) with
// all problems, one per line: file:line:column, key, what was found, what is legal, the nearest
// key. Relative paths are relative to the current directory; ~ is not expanded.
// An empty text is legal and means all defaults.
CoordinatorConfig parse_coordinator_config(std::string_view text, const std::string& source);
CoordinatorConfig load_coordinator_config(const std::filesystem::path& file);

// $XDG_RUNTIME_DIR/lockstep/coordinator.sock, else ~/.lockstep/coordinator.sock: where the server
// listens and the commands look when neither is told otherwise.
std::filesystem::path default_socket();

}  // namespace lockstep::coordinator
