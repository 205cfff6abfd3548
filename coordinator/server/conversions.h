#pragma once

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/timestamp.pb.h>
#include <cstdint>

#include "coordinator/engine/requests.h"
#include "coordinator/model/coordinator_policy.h"
#include "coordinator/model/event.h"
#include "coordinator/model/run.h"
#include "lockstep/v1/admin_service.pb.h"
#include "lockstep/v1/agent_service.pb.h"
#include "lockstep/v1/cluster_service.pb.h"
#include "lockstep/v1/run.pb.h"
#include "lockstep/v1/run_service.pb.h"

// Between the messages of the protocol and the structs of the engine, which have the same members.
// Requests are checked here for what a message can say and a struct cannot: limits of size, texts
// that are not one line, durations below zero. Such a request throws EngineError(INVALID_ARGUMENT,
// INVALID_FIELD) with every violation.
namespace lockstep::coordinator {

enum class Texts : std::uint8_t { kWithout, kWith };  // config_yaml and resolved_config

v1::Run to_proto(const RunRecord& record, Texts texts);
v1::Attempt to_proto(const Attempt& attempt, const std::string& run);
v1::ExitInfo to_proto(const ExitInfo& info);
v1::Checkpoint to_proto(const CheckpointInfo& checkpoint, const std::string& run);
v1::RunEvent to_proto(const Event& event);  // without run_after
v1::Placement to_proto(const Placement& placement);
v1::Host to_proto(const HostInfo& host);
v1::Token to_proto(const TokenInfo& token);
v1::AuditEvent to_proto(const AuditEvent& event);
v1::ExplainRunResponse to_proto(const Explanation& explanation);
v1::CreateRunResponse to_proto(const CreateResult& result);

// retry_defaults: of what the request leaves open.
CreateRequest from_proto(const v1::CreateRunRequest& request, const RetryPolicy& retry_defaults);
UpdateRequest from_proto(const v1::UpdateRunRequest& request);
CancelRequest from_proto(const v1::CancelRunRequest& request);
PauseRequest from_proto(const v1::PauseRunRequest& request);
RetryRequest from_proto(const v1::RetryRunRequest& request);
DeleteRequest from_proto(const v1::DeleteRunRequest& request);
CreateTokenRequest from_proto(const v1::CreateTokenRequest& request);
AttemptRef from_proto(const v1::AttemptRef& ref);
AgentRegistration from_proto(const v1::RegisterRequest& request);
Beat from_proto(const v1::HeartbeatRequest& request);

google::protobuf::Timestamp timestamp_message(std::int64_t ns);  // not for 0, which is "unset"
std::int64_t timestamp_ns(const google::protobuf::Timestamp& time);
google::protobuf::Duration duration_message(std::int64_t ns);

// Limits of one request, beside those of the message as a whole. docs/job_control.md lists them.
inline constexpr std::size_t kMaxConfigBytes = 256 * 1024;
inline constexpr int kMaxConfigDepth = 32;
inline constexpr std::size_t kMaxDisplayNameBytes = 128;
inline constexpr int kMaxLabels = 64;
inline constexpr std::size_t kMaxLabelKeyBytes = 64;
inline constexpr std::size_t kMaxLabelValueBytes = 256;
inline constexpr std::size_t kMaxNotesBytes = 4096;
inline constexpr std::size_t kMaxReasonBytes = 1024;
inline constexpr int kMaxVariables = 64;
inline constexpr std::size_t kMaxVariableBytes = 4096;
inline constexpr int kMaxOverrides = 128;
inline constexpr std::size_t kMaxOverrideBytes = 4096;
inline constexpr int kMaxAfter = 64;

}  // namespace lockstep::coordinator
