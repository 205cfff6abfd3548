#include "coordinator/server/method_table.h"

#include <algorithm>

namespace lockstep::coordinator {
namespace {

constexpr MethodRule read(std::string_view name, Lane lane = Lane::kRead) {
  return {name, Access::kRead, CallKind::kRead, lane, false};
}
constexpr MethodRule verb(std::string_view name) {
  return {name, Access::kOwn, CallKind::kInteractive, Lane::kInteractive, true};
}
constexpr MethodRule change(std::string_view name, Access access) {
  return {name, access, CallKind::kMutation, Lane::kMutation, true};
}

constexpr MethodRule kTable[] = {
    change("lockstep.v1.RunService/CreateRun", Access::kSubmit),
    read("lockstep.v1.RunService/GetRun"),
    read("lockstep.v1.RunService/ListRuns"),
    change("lockstep.v1.RunService/UpdateRun", Access::kOwn),
    verb("lockstep.v1.RunService/CancelRun"),
    verb("lockstep.v1.RunService/PauseRun"),
    verb("lockstep.v1.RunService/ResumeRun"),
    verb("lockstep.v1.RunService/CheckpointRun"),
    change("lockstep.v1.RunService/RetryRun", Access::kSubmit),
    change("lockstep.v1.RunService/DeleteRun", Access::kOwn),
    read("lockstep.v1.RunService/WaitRun"),
    read("lockstep.v1.RunService/WatchRuns", Lane::kStream),
    read("lockstep.v1.RunService/ExplainRun"),
    read("lockstep.v1.RunService/ReadLogs", Lane::kStream),
    read("lockstep.v1.RunService/ReadMetrics", Lane::kStream),
    read("lockstep.v1.RunService/ListCheckpoints", Lane::kHeavy),
    read("lockstep.v1.RunService/ListAttempts"),
    read("lockstep.v1.RunService/ListEvents", Lane::kHeavy),
    read("lockstep.v1.ClusterService/ListHosts"),
    {"lockstep.v1.ClusterService/DrainHost", Access::kOperate, CallKind::kInteractive,
     Lane::kInteractive, true},
    {"lockstep.v1.ClusterService/UndrainHost", Access::kOperate, CallKind::kInteractive,
     Lane::kInteractive, true},
    read("lockstep.v1.AdminService/GetServerInfo"),
    change("lockstep.v1.AdminService/CreateToken", Access::kAdmin),
    {"lockstep.v1.AdminService/ListTokens", Access::kAdmin, CallKind::kRead, Lane::kRead, false},
    {"lockstep.v1.AdminService/RevokeToken", Access::kAdmin, CallKind::kInteractive,
     Lane::kInteractive, true},
    {"lockstep.v1.AdminService/ListAuditEvents", Access::kAdmin, CallKind::kRead, Lane::kHeavy,
     false},
    {"lockstep.v1.AdminService/BackupStore", Access::kAdmin, CallKind::kHeavy, Lane::kHeavy, true},
    {"lockstep.v1.AdminService/CheckStore", Access::kAdmin, CallKind::kHeavy, Lane::kHeavy, false},
    change("lockstep.v1.AdminService/AdoptAttempt", Access::kAdmin),
    {"lockstep.v1.AdminService/EndAttempt", Access::kAdmin, CallKind::kInteractive,
     Lane::kInteractive, true},
    {"lockstep.v1.AdminService/ShutdownServer", Access::kAdmin, CallKind::kInteractive,
     Lane::kInteractive, true},
    {"lockstep.v1.AgentService/Register", Access::kAgent, CallKind::kAgent, Lane::kAgent, false},
    {"lockstep.v1.AgentService/Heartbeat", Access::kAgent, CallKind::kAgent, Lane::kAgent, false},
    {"grpc.health.v1.Health/Check", Access::kPublic, CallKind::kRead, Lane::kRead, false},
    {"grpc.health.v1.Health/Watch", Access::kPublic, CallKind::kRead, Lane::kRead, false},
    {"grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Access::kAdmin,
     CallKind::kRead, Lane::kStream, false},
};

}  // namespace

std::span<const MethodRule> method_table() {
  return kTable;
}

const MethodRule* find_method(std::string_view name) {
  const auto* rule = std::find_if(std::begin(kTable), std::end(kTable),
                                  [name](const MethodRule& entry) { return entry.name == name; });
  return rule == std::end(kTable) ? nullptr : rule;
}

void Scopes::add(std::string_view name) {
  if (name == "read") bits_ |= kRead;
  if (name == "submit") bits_ |= kSubmit | kRead;
  if (name == "operate") bits_ |= kOperate | kRead;
  if (name == "admin") bits_ |= kAdmin | kOperate | kSubmit | kRead;
}

bool Scopes::allow(Access access) const {
  switch (access) {
    case Access::kPublic:
      return true;
    case Access::kRead:
      return has(kRead);
    case Access::kSubmit:
      return has(kSubmit);
    case Access::kOwn:
      return has(kOperate) || has(kSubmit);
    case Access::kOperate:
      return has(kOperate);
    case Access::kAdmin:
      return has(kAdmin);
    case Access::kAgent:
      return false;
  }
  return false;
}

const char* to_string(Access access) {
  switch (access) {
    case Access::kPublic:
      return "none";
    case Access::kRead:
      return "read";
    case Access::kSubmit:
      return "submit";
    case Access::kOwn:
      return "operate, or submit for runs of one's own";
    case Access::kOperate:
      return "operate";
    case Access::kAdmin:
      return "admin";
    case Access::kAgent:
      return "the secret of an attempt";
  }
  return "?";
}

}  // namespace lockstep::coordinator
