#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "coordinator/attempts/attempt_host.h"
#include "coordinator/engine/checkpoints.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/engine_loop.h"
#include "coordinator/model/coordinator_config.h"
#include "coordinator/server/coordinator_server.h"
#include "coordinator/server/server_log.h"
#include "coordinator/server/server_metrics.h"
#include "coordinator/store/store.h"
#include "core/log.h"
#include "tests/coordinator/engine/invariants.h"
#include "tests/support/temporary_directory.h"

namespace grpc {
class Channel;
}

namespace lockstep::coordinator::testing {

// Attempts without processes: they run from launch until a test ends them or they are stopped.
class FakeAttempts final : public AttemptHost {
 public:
  void launch(const LaunchSpec& spec) override;
  AttemptStatus poll(const AttemptRef& attempt) override;
  StopAnswer stop(const AttemptRef& attempt, const StopRequest& request) override;
  std::vector<FoundAttempt> find_all(const std::function<bool(const std::string&)>& skip) override;
  void set_aside(const AttemptRef&) override {}
  std::vector<AttemptRef> living() const;  // those that have processes
  void remove(const AttemptRef&) override {}

  void end(const std::string& run, int code);
  LaunchSpec spec(const std::string& run) const;  // of its newest attempt; throws if it has none
  int launches() const;

 private:
  struct Entry {
    LaunchSpec spec;
    AttemptStatus status;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;  // by run
  int launches_ = 0;
};

// One whole checkpoint in every output.
class FakeCheckpoints final : public Checkpoints {
 public:
  std::optional<CheckpointInfo> newest_verified(const std::string& output) override {
    return verify(output, 5);
  }
  std::optional<CheckpointInfo> verify(const std::string& output, std::int64_t step) override {
    return CheckpointInfo{step, output + "/checkpoints/step", true, true, "", 1, 1};
  }
  std::vector<CheckpointInfo> list(const std::string& output, bool) override {
    return {*verify(output, 5)};
  }
};

// A whole coordinator in this process but for the attempts, on a Unix socket. At its end the
// invariants are checked.
class TestServer {
 public:
  // `change` may alter the configuration before anything is started.
  explicit TestServer(const std::function<void(CoordinatorConfig&, EngineOptions&)>& change = {});
  ~TestServer();

  std::string address() const;  // of the Unix socket, as gRPC takes it
  std::shared_ptr<grpc::Channel> channel(const std::string& address) const;
  std::shared_ptr<grpc::Channel> channel() const { return channel(address()); }
  std::string secret_of(const std::string& name, std::vector<std::string> scopes,
                        std::int64_t lifetime_ns = 0);
  std::string log_text() const;  // of the server
  // A call of the test itself that made this run was answered.
  void acknowledged(const std::string& caller, const std::string& request_id,
                    const std::string& run);

  // The run was deleted, or is about to be.
  void deleted(const std::string& run) { invariants_.deleted(run); }

  // Queues a run through the engine.
  RunPtr submit(const std::string& name, const Caller& caller = {});
  // Waits until the run is in this state; fails the test after 20 s.
  RunPtr wait_for(const std::string& run, RunState state) const;

  ::lockstep::testing::TemporaryDirectory directory;
  CoordinatorConfig config;
  FakeAttempts attempts;
  std::unique_ptr<Store> store;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<CoordinatorServer> server;
  std::atomic<int> shutdown_requests = 0;

 private:
  void check_invariants();

  Invariants invariants_;
  FakeCheckpoints checkpoints_;
  SystemClock clock_;
  core::Logger logger_{0, 1, core::LogLevel::kError};
  std::unique_ptr<ServerLog> log_;
  ServerMetrics metrics_;
  std::unique_ptr<EngineLoop> loop_;
};

// A configuration that trains nothing much, with its output below `directory`.
std::string tiny_config(const std::string& output);

std::string new_request_id();

}  // namespace lockstep::coordinator::testing
