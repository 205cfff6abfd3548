#pragma once

#include <functional>
#include <memory>
#include <string>

#include "coordinator/client/call_error.h"
#include "coordinator/client/endpoint.h"
#include "lockstep/v1/admin_service.pb.h"
#include "lockstep/v1/cluster_service.pb.h"
#include "lockstep/v1/run_service.pb.h"

namespace lockstep::coordinator {

namespace v1 = ::lockstep::v1;

// Gets each message of a stream; false ends it.
template <typename Message>
using Take = std::function<bool(const Message&)>;

// Calls of the coordinator. Every unary call has a deadline. While the coordinator cannot be
// reached, reads are tried again for as long as the endpoint's patience, and so are changes, which
// always carry a request_id: one is made where the request has none, so that trying again never
// does a thing twice. (A backup has none and is tried once.) Errors are CallError; Interrupted
// after interrupt(). Thread-safe.
class Client {
 public:
  explicit Client(Endpoint endpoint);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  v1::CreateRunResponse create_run(v1::CreateRunRequest request);
  v1::Run get_run(const v1::GetRunRequest& request);
  v1::ListRunsResponse list_runs(const v1::ListRunsRequest& request);
  v1::Run update_run(v1::UpdateRunRequest request);
  v1::Run cancel_run(v1::CancelRunRequest request);
  v1::Run pause_run(v1::PauseRunRequest request);
  v1::Run resume_run(v1::ResumeRunRequest request);
  v1::CheckpointRunResponse checkpoint_run(v1::CheckpointRunRequest request);
  v1::Run retry_run(v1::RetryRunRequest request);
  v1::DeleteRunResponse delete_run(v1::DeleteRunRequest request);
  v1::WaitRunResponse wait_run(const v1::WaitRunRequest& request,
                               std::chrono::milliseconds deadline);
  v1::ExplainRunResponse explain_run(const v1::ExplainRunRequest& request);
  v1::ListCheckpointsResponse list_checkpoints(const v1::ListCheckpointsRequest& request);
  v1::ListAttemptsResponse list_attempts(const v1::ListAttemptsRequest& request);
  v1::ListEventsResponse list_events(const v1::ListEventsRequest& request);

  v1::ListHostsResponse list_hosts();
  v1::Host drain_host(v1::DrainHostRequest request);
  v1::Host undrain_host(v1::UndrainHostRequest request);

  v1::ServerInfo server_info();
  v1::CreateTokenResponse create_token(v1::CreateTokenRequest request);
  v1::ListTokensResponse list_tokens();
  v1::Token revoke_token(v1::RevokeTokenRequest request);
  v1::ListAuditEventsResponse list_audit_events(const v1::ListAuditEventsRequest& request);
  v1::BackupStoreResponse backup_store(const v1::BackupStoreRequest& request);
  v1::CheckStoreResponse check_store();
  v1::Run adopt_attempt(v1::AdoptAttemptRequest request);
  void end_attempt(v1::EndAttemptRequest request);
  void shutdown_server();

  // One stream each, without trying again; they return when it ends, true if `take` ended it.
  bool read_logs(const v1::ReadLogsRequest& request, const Take<v1::LogChunk>& take);
  bool read_metrics(const v1::ReadMetricsRequest& request, const Take<v1::MetricsChunk>& take);
  bool watch_runs(const v1::WatchRunsRequest& request, const Take<v1::RunEvent>& take);

  // Ends all calls and waits, now and from now on, with Interrupted.
  void interrupt();
  // Sleeps; throws Interrupted.
  void pause(std::chrono::milliseconds time);

  // From now on as long as this.
  void set_patience(std::chrono::milliseconds patience);
  std::chrono::milliseconds patience() const;
  const std::string& address() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// A random UUID (version 4).
std::string make_request_id();

}  // namespace lockstep::coordinator
