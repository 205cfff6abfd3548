// Who may call what: S2, S3.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>
#include <thread>

#include "coordinator/server/method_table.h"
#include "lockstep/v1/admin_service.grpc.pb.h"
#include "lockstep/v1/agent_service.grpc.pb.h"
#include "lockstep/v1/run_service.grpc.pb.h"
#include "tests/coordinator/server/raw_call.h"
#include "tests/coordinator/server/test_server.h"

namespace lockstep::coordinator::testing {
namespace {

using grpc::StatusCode;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

void listen_on_tcp_too(CoordinatorConfig& config, EngineOptions&) {
  config.listen.push_back(parse_listen_address("127.0.0.1:0"));
}

std::string tcp_address(const TestServer& server) {
  return server.server->addresses().back().text();
}

// What docs/job_control.md promises, said once more: the scopes with which a method may be called.
// An own run is somebody else's here, so "submit" is not enough.
using Names = std::set<std::string>;
const Names kEverybody = {"read", "submit", "operate", "admin"};
const Names kSubmitters = {"submit", "admin"};
const Names kOperators = {"operate", "admin"};
const Names kAdmins = {"admin"};
const Names kNobody = {};  // only the secret of an attempt

const std::map<std::string, Names>& promised() {
  static const std::map<std::string, Names> scopes = {
      {"RunService/CreateRun", kSubmitters},      {"RunService/GetRun", kEverybody},
      {"RunService/ListRuns", kEverybody},        {"RunService/UpdateRun", kOperators},
      {"RunService/CancelRun", kOperators},       {"RunService/PauseRun", kOperators},
      {"RunService/ResumeRun", kOperators},       {"RunService/CheckpointRun", kOperators},
      {"RunService/RetryRun", kSubmitters},       {"RunService/WaitRun", kEverybody},
      {"RunService/DeleteRun", kOperators},       {"RunService/WatchRuns", kEverybody},
      {"RunService/ExplainRun", kEverybody},      {"RunService/ReadLogs", kEverybody},
      {"RunService/ReadMetrics", kEverybody},     {"RunService/ListCheckpoints", kEverybody},
      {"RunService/ListAttempts", kEverybody},    {"RunService/ListEvents", kEverybody},
      {"ClusterService/ListHosts", kEverybody},   {"ClusterService/DrainHost", kOperators},
      {"ClusterService/UndrainHost", kOperators}, {"AdminService/GetServerInfo", kEverybody},
      {"AdminService/CreateToken", kAdmins},      {"AdminService/ListTokens", kAdmins},
      {"AdminService/RevokeToken", kAdmins},      {"AdminService/ListAuditEvents", kAdmins},
      {"AdminService/BackupStore", kAdmins},      {"AdminService/CheckStore", kAdmins},
      {"AdminService/ShutdownServer", kAdmins},   {"AdminService/AdoptAttempt", kAdmins},
      {"AdminService/EndAttempt", kAdmins},       {"AgentService/Register", kNobody},
      {"AgentService/Heartbeat", kNobody}};
  return scopes;
}

// "/lockstep.v1.RunService/GetRun"
const Names& promised_for(const std::string& method) {
  return promised().at(method.substr(std::string("/lockstep.v1.").size()));
}

TEST(S2_EveryMethodDeniesByDefault, TableAndDescriptorsNameTheSameMethods) {
  std::set<std::string> described;
  for (const std::string& method : all_methods()) {
    described.insert(method.substr(1));
    EXPECT_NO_THROW(promised_for(method)) << method << ": who may call it?";
  }
  EXPECT_EQ(described.size(), promised().size());
  std::set<std::string> ruled;
  for (const MethodRule& rule : method_table()) {
    if (rule.name.starts_with("lockstep.")) ruled.emplace(rule.name);
  }
  EXPECT_EQ(described, ruled);
}

TEST(S2_EveryMethodDeniesByDefault, WithoutOrWithABadTokenOverTcp) {
  TestServer server(listen_on_tcp_too);
  const auto channel = server.channel(tcp_address(server));
  const std::string expired = server.secret_of("expired", {"admin"}, 1);
  const std::string revoked = server.secret_of("revoked", {"admin"});
  server.engine->revoke_token("revoked", new_request_id(), {});
  for (const std::string& method : all_methods()) {
    for (const std::string& secret : {std::string(), std::string("lst_guess"), expired, revoked}) {
      const RawAnswer answer = raw_call(channel, method, "", secret);
      EXPECT_EQ(answer.status.error_code(), StatusCode::UNAUTHENTICATED) << method;
      EXPECT_THAT(reason_of(answer.status), AnyOf("NO_TOKEN", "BAD_TOKEN")) << method;
      EXPECT_EQ(answer.bytes, "");
    }
  }
}

TEST(S2_EveryMethodDeniesByDefault, WithoutTheScopeItNeeds) {
  TestServer server(listen_on_tcp_too);
  const auto channel = server.channel(tcp_address(server));
  const std::string others_run = server.submit("of-local")->run.id;
  server.deleted(others_run);  // once it has ended, by who may
  for (const std::string scope : {"read", "submit", "operate", "admin"}) {
    const std::string secret = server.secret_of("holds-" + scope, {scope});
    for (const std::string& method : all_methods()) {
      const MethodRule* rule = find_method(method.substr(1));
      ASSERT_NE(rule, nullptr) << method;
      v1::GetRunRequest named;  // `name` is field 1 of the requests about a run, but for one
      named.set_name(others_run);
      v1::UpdateRunRequest update;
      update.mutable_run()->set_name(others_run);
      const std::string about =
          method.ends_with("/UpdateRun") ? update.SerializeAsString() : named.SerializeAsString();
      const std::string request = rule->access == Access::kOwn ? about : "";
      const RawAnswer answer =
          raw_call(channel, method, request, secret, std::chrono::milliseconds(1500));
      const bool denied = answer.status.error_code() == StatusCode::PERMISSION_DENIED ||
                          answer.status.error_code() == StatusCode::UNAUTHENTICATED;
      EXPECT_EQ(denied, !promised_for(method).contains(scope))
          << method << " with scope " << scope << ": " << answer.status.error_message();
    }
  }
}

TEST(S2_EveryMethodDeniesByDefault, UnknownMethods) {
  TestServer server(listen_on_tcp_too);
  const auto channel = server.channel(tcp_address(server));
  const std::string secret = server.secret_of("reader", {"read"});
  for (const char* method : {"/lockstep.v1.RunService/Nothing", "/x.Y/Z", "/nothing"}) {
    EXPECT_EQ(raw_call(channel, method, "").status.error_code(), StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(raw_call(channel, method, "", secret).status.error_code(), StatusCode::UNIMPLEMENTED);
  }
  const char* reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  EXPECT_EQ(raw_call(channel, reflection, "", secret).status.error_code(),
            StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(raw_call(channel, "/grpc.health.v1.Health/Check", "").status.error_code(),
            StatusCode::OK);
}

TEST(S2_SubmitScope, ActsOnRunsOfItsOwnOnly) {
  TestServer server;
  const std::string secret = server.secret_of("alice", {"submit"});
  const std::string own = server.submit("own", {"alice", "test"})->run.id;
  const std::string other = server.submit("other", {"bob", "test"})->run.id;
  const auto stub = v1::RunService::NewStub(server.channel());
  v1::CancelRunRequest request;
  v1::Run run;
  request.set_request_id(new_request_id());
  request.set_name("runs/" + other);
  EXPECT_EQ(stub->CancelRun(new_context(secret).get(), request, &run).error_code(),
            StatusCode::PERMISSION_DENIED);
  EXPECT_FALSE(is_terminal(server.engine->find(other)->run.state));
  request.set_name("runs/" + own);
  const grpc::Status status = stub->CancelRun(new_context(secret).get(), request, &run);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST(S3_Tokens, SecretsAreNowhereButInTheirAnswer) {
  TestServer server;
  const auto admin = v1::AdminService::NewStub(server.channel());
  v1::CreateTokenRequest request;
  request.set_name("canary");
  request.add_scopes("admin");
  request.set_request_id(new_request_id());
  v1::CreateTokenResponse created;
  const grpc::Status status = admin->CreateToken(new_context().get(), request, &created);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const std::string secret = created.secret();
  ASSERT_GE(secret.size(), 43u);  // 256 bits
  for (const std::string& method : all_methods()) {
    for (const std::string& shown : {secret, secret + "x"}) {
      const RawAnswer answer =
          raw_call(server.channel(), method, "", shown, std::chrono::milliseconds(300));
      EXPECT_THAT(answer.status.error_message(), Not(HasSubstr(secret))) << method;
      EXPECT_THAT(answer.status.error_details(), Not(HasSubstr(secret))) << method;
      EXPECT_THAT(answer.bytes, Not(HasSubstr(secret))) << method;
    }
  }
  EXPECT_THAT(server.log_text(), Not(HasSubstr(secret)));
  for (const auto& entry : std::filesystem::recursive_directory_iterator(server.directory.path())) {
    if (!entry.is_regular_file()) continue;
    EXPECT_THAT(::lockstep::testing::read_file(entry.path()), Not(HasSubstr(secret)))
        << entry.path();
  }
}

TEST(S3_Tokens, RevokingEndsCallsAndOpenStreamsWithinASecond) {
  TestServer server;
  const std::string secret = server.secret_of("watcher", {"read"});
  const auto stub = v1::RunService::NewStub(server.channel());
  const auto context = new_context(secret, std::chrono::seconds(20));
  const auto stream = stub->WatchRuns(context.get(), v1::WatchRunsRequest());
  server.submit("seen");
  v1::RunEvent event;
  ASSERT_TRUE(stream->Read(&event));
  const auto begin = std::chrono::steady_clock::now();
  server.engine->revoke_token("watcher", new_request_id(), {});
  while (stream->Read(&event)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  v1::ListRunsResponse runs;
  EXPECT_EQ(stub->ListRuns(new_context(secret).get(), v1::ListRunsRequest(), &runs).error_code(),
            StatusCode::UNAUTHENTICATED);
}

TEST(S3_Tokens, AnExpiringTokenEndsItsStreams) {
  TestServer server;
  const std::string secret = server.secret_of("short", {"read"}, kSecond);
  const auto stub = v1::RunService::NewStub(server.channel());
  const auto context = new_context(secret, std::chrono::seconds(20));
  const auto stream = stub->WatchRuns(context.get(), v1::WatchRunsRequest());
  v1::RunEvent event;
  while (stream->Read(&event)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::UNAUTHENTICATED);
}

TEST(S3_Tokens, NamesOfTheServerItselfAreRefused) {
  TestServer server;
  const auto admin = v1::AdminService::NewStub(server.channel());
  for (const char* name : {"local", "agent", "coordinator", "scheduler"}) {
    v1::CreateTokenRequest request;
    request.set_name(name);
    request.add_scopes("read");
    request.set_request_id(new_request_id());
    v1::CreateTokenResponse created;
    EXPECT_EQ(admin->CreateToken(new_context().get(), request, &created).error_code(),
              StatusCode::INVALID_ARGUMENT)
        << name;
  }
}

std::string agent_secret(const TestServer& server, const std::string& run) {
  std::string secret = ::lockstep::testing::read_file(server.attempts.spec(run).agent_token_file);
  while (!secret.empty() && secret.back() == '\n')
    secret.pop_back();
  return secret;
}

void with_agents(CoordinatorConfig&, EngineOptions& options) {
  options.agent_address = "unix:/nowhere";
}

TEST(S3_AgentTokens, AreBoundToOneAttemptAndToTheAgentsService) {
  TestServer server(with_agents);
  const std::string a = server.submit("a")->run.id;
  const std::string b = server.submit("b")->run.id;
  server.wait_for(a, RunState::kStarting);
  server.wait_for(b, RunState::kStarting);
  while (server.attempts.launches() < 2)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const auto agent = v1::AgentService::NewStub(server.channel());
  const AttemptRef ref = server.engine->find(a)->current_ref();
  v1::RegisterRequest request;
  request.mutable_attempt()->set_run(ref.run);
  request.mutable_attempt()->set_attempt(ref.number);
  request.mutable_attempt()->set_fence(ref.fence);
  request.set_world_size(1);
  request.set_host("localhost");
  v1::RegisterResponse response;
  const std::string user = server.secret_of("root", {"admin"});
  for (const std::string& wrong : {std::string(), user, agent_secret(server, b)}) {
    EXPECT_EQ(agent->Register(new_context(wrong).get(), request, &response).error_code(),
              StatusCode::UNAUTHENTICATED);
  }
  EXPECT_EQ(server.engine->find(a)->run.state, RunState::kStarting);
  const std::string secret = agent_secret(server, a);
  const grpc::Status status = agent->Register(new_context(secret).get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  v1::Run run;
  v1::GetRunRequest get;
  get.set_name(a);
  EXPECT_EQ(v1::RunService::NewStub(server.channel())
                ->GetRun(new_context(secret).get(), get, &run)
                .error_code(),
            StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(server.log_text(), Not(HasSubstr(secret)));
}

TEST(F11_OldFence, HeartbeatsOfAnEndedAttemptAreRefusedAndChangeNothing) {
  TestServer server(with_agents);
  const std::string id = server.submit("fenced")->run.id;
  server.wait_for(id, RunState::kStarting);
  while (server.attempts.launches() < 1)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const AttemptRef ref = server.engine->find(id)->current_ref();
  const std::string secret = agent_secret(server, id);
  server.attempts.end(id, 3);
  server.wait_for(id, RunState::kFailed);
  const auto agent = v1::AgentService::NewStub(server.channel());
  v1::HeartbeatRequest beat;
  beat.mutable_attempt()->set_run(ref.run);
  beat.mutable_attempt()->set_attempt(ref.number);
  beat.mutable_attempt()->set_fence(ref.fence);
  beat.set_step(17);
  v1::HeartbeatResponse response;
  const grpc::Status status = agent->Heartbeat(new_context(secret).get(), beat, &response);
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION) << status.error_message();
  EXPECT_EQ(reason_of(status), "STALE_FENCE");
  EXPECT_EQ(server.engine->find(id)->run.progress.step, 0);
}

TEST(F10_LostContact, IsSuspectNotFailureAndHealsWithoutARestart) {
  TestServer server([](CoordinatorConfig& config, EngineOptions& options) {
    with_agents(config, options);
    options.suspect_after_ns = kSecond / 4;
    options.hang_floor_ns = 3600 * kSecond;
  });
  const std::string id = server.submit("lonely")->run.id;
  server.wait_for(id, RunState::kStarting);
  while (server.attempts.launches() < 1)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const AttemptRef ref = server.engine->find(id)->current_ref();
  const std::string secret = agent_secret(server, id);
  const auto agent = v1::AgentService::NewStub(server.channel());
  v1::RegisterRequest registration;
  registration.mutable_attempt()->set_run(ref.run);
  registration.mutable_attempt()->set_attempt(ref.number);
  registration.mutable_attempt()->set_fence(ref.fence);
  registration.set_world_size(1);
  registration.set_total_steps(20);
  v1::RegisterResponse registered;
  ASSERT_TRUE(agent->Register(new_context(secret).get(), registration, &registered).ok());
  server.wait_for(id, RunState::kRunning);
  const auto wait_suspect = [&](bool suspect) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (server.engine->find(id)->run.suspect != suspect) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return true;
  };
  v1::HeartbeatRequest beat;
  *beat.mutable_attempt() = registration.attempt();
  for (int round = 1; round <= 3; ++round) {
    EXPECT_TRUE(wait_suspect(true));
    EXPECT_EQ(server.engine->find(id)->run.state, RunState::kRunning);
    beat.set_step(round);
    beat.set_activity(round * 10);
    v1::HeartbeatResponse response;
    ASSERT_TRUE(agent->Heartbeat(new_context(secret).get(), beat, &response).ok());
    EXPECT_TRUE(wait_suspect(false));
  }
  const auto record = server.engine->find(id);
  EXPECT_EQ(record->run.restart_count, 0);
  EXPECT_EQ(record->attempts.size(), 1u);
  EXPECT_EQ(server.attempts.launches(), 1);
}

}  // namespace
}  // namespace lockstep::coordinator::testing
