#include "coordinator/agent/agent.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"
#include "lockstep/v1/agent_service.grpc.pb.h"
#include "runtime/step/step_report.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::coordinator::agent {
namespace {

namespace v1 = lockstep::v1;
using std::chrono::milliseconds;

// Answers what it was told to, and remembers what it heard.
class FakeCoordinator : public v1::AgentService::Service {
 public:
  explicit FakeCoordinator(const std::string& address) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeCoordinator() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Register(grpc::ServerContext* context, const v1::RegisterRequest* request,
                        v1::RegisterResponse* response) override {
    const std::lock_guard lock(mutex_);
    const auto found = context->client_metadata().find("authorization");
    if (found != context->client_metadata().end()) {
      authorization_ = std::string(found->second.data(), found->second.size());
    }
    registrations_.push_back(*request);
    response->mutable_heartbeat_interval()->set_nanos(50'000'000);
    return registration_answer_;
  }

  grpc::Status Heartbeat(grpc::ServerContext* /*context*/, const v1::HeartbeatRequest* request,
                         v1::HeartbeatResponse* response) override {
    const std::lock_guard lock(mutex_);
    heartbeats_.push_back(*request);
    response->set_control(control_);
    response->set_control_id(control_id_);
    return heartbeat_answer_;
  }

  void answer(v1::Control control, std::int64_t id) {
    const std::lock_guard lock(mutex_);
    control_ = control;
    control_id_ = id;
  }
  void refuse(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    heartbeat_answer_ = status;
  }
  std::vector<v1::HeartbeatRequest> heartbeats() {
    const std::lock_guard lock(mutex_);
    return heartbeats_;
  }
  std::vector<v1::RegisterRequest> registrations() {
    const std::lock_guard lock(mutex_);
    return registrations_;
  }
  std::string authorization() {
    const std::lock_guard lock(mutex_);
    return authorization_;
  }

 private:
  std::mutex mutex_;
  std::vector<v1::RegisterRequest> registrations_;
  std::vector<v1::HeartbeatRequest> heartbeats_;
  std::string authorization_;
  v1::Control control_ = v1::CONTROL_NONE;
  std::int64_t control_id_ = 0;
  grpc::Status registration_answer_;
  grpc::Status heartbeat_answer_;
  std::unique_ptr<grpc::Server> server_;
};

bool wait_until(auto condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition() && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(milliseconds(10));
  return condition();
}

class AgentTest : public ::testing::Test {
 protected:
  AgentOptions options() const {
    return {.address = address_,
            .secret = "canary",
            .run = "run1",
            .attempt = 2,
            .fence = 7,
            .ca_file = "",
            .certificate_file = "",
            .key_file = ""};
  }
  RunFacts facts() const {
    return {.world_size = 2, .total_steps = 100, .resumed_step = 10, .flight_file = "/nowhere"};
  }

  testing::TemporaryDirectory directory_;
  const std::string address_ = "unix:" + (directory_ / "socket").string();
  runtime::RunMonitor monitor_;
  core::Logger log_{1, 2};  // says nothing on the console
};

TEST_F(AgentTest, RegistersAndTellsHowTheRunGetsOn) {
  FakeCoordinator coordinator(address_);
  {
    const Agent agent(options(), facts(), monitor_, log_);
    ASSERT_TRUE(wait_until([&] { return !coordinator.heartbeats().empty(); }));
    EXPECT_EQ(coordinator.heartbeats().front().step(), 10);
    EXPECT_EQ(coordinator.heartbeats().front().phase(), "starting");
    monitor_.got_on(runtime::RunPhase::kTraining);
    monitor_.step_done(11, 2.5, 1000.0, 0.25);
    monitor_.saved(11);
    ASSERT_TRUE(wait_until([&] { return coordinator.heartbeats().back().step() == 11; }));
  }
  const v1::RegisterRequest registration = coordinator.registrations().front();
  EXPECT_EQ(coordinator.registrations().size(), 1U);
  EXPECT_EQ(coordinator.authorization(), "Bearer canary");
  EXPECT_EQ(registration.attempt().run(), "run1");
  EXPECT_EQ(registration.attempt().attempt(), 2);
  EXPECT_EQ(registration.attempt().fence(), 7);
  EXPECT_EQ(registration.world_size(), 2);
  EXPECT_EQ(registration.pid(), getpid());
  EXPECT_EQ(registration.resumed_step(), 10);
  const v1::HeartbeatRequest last = coordinator.heartbeats().back();
  EXPECT_EQ(last.phase(), "ending");
  EXPECT_EQ(last.loss(), 2.5);
  EXPECT_EQ(last.tokens_per_second(), 1000.0);
  EXPECT_EQ(last.step_seconds(), 0.25);
  EXPECT_EQ(last.checkpoint_step(), 11);
  EXPECT_EQ(last.activity(), 3);
}

TEST_F(AgentTest, HandsControlToTheStepDecisionOnceAndAcknowledgesIt) {
  FakeCoordinator coordinator(address_);
  const Agent agent(options(), facts(), monitor_, log_);
  coordinator.answer(v1::CONTROL_CHECKPOINT, 3);
  std::uint32_t seen = 0;
  ASSERT_TRUE(wait_until([&] { return (seen |= monitor_.take_requests()) != 0; }));
  EXPECT_EQ(seen, runtime::kRequestCheckpoint);
  ASSERT_TRUE(wait_until([&] { return coordinator.heartbeats().back().acked_control_id() == 3; }));
  // The same number again is the same request.
  const std::size_t before = coordinator.heartbeats().size();
  ASSERT_TRUE(wait_until([&] { return coordinator.heartbeats().size() > before + 2; }));
  EXPECT_EQ(monitor_.take_requests(), runtime::kRequestNone);
  coordinator.answer(v1::CONTROL_CHECKPOINT_AND_EXIT, 4);
  ASSERT_TRUE(wait_until([&] { return monitor_.take_requests() == runtime::kRequestStop; }));
  EXPECT_EQ(monitor_.take_requests(), runtime::kRequestStop) << "a stop stays";
}

TEST_F(AgentTest, F10_ACoordinatorThatIsAwayIsTriedForEverAndHurtsNobody) {
  std::optional<FakeCoordinator> coordinator;
  const auto begin = std::chrono::steady_clock::now();
  std::optional<Agent> agent;
  agent.emplace(options(), facts(), monitor_, log_);
  std::this_thread::sleep_for(milliseconds(200));
  coordinator.emplace(address_);
  ASSERT_TRUE(wait_until([&] { return !coordinator->heartbeats().empty(); }));
  coordinator.reset();
  std::this_thread::sleep_for(milliseconds(200));
  coordinator.emplace(address_);
  ASSERT_TRUE(wait_until([&] { return !coordinator->heartbeats().empty(); })) << "after a restart";
  coordinator.reset();
  EXPECT_EQ(monitor_.take_requests(), runtime::kRequestNone);
  const auto end = std::chrono::steady_clock::now();
  agent.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - end, std::chrono::seconds(3)) << "ends at once";
  EXPECT_LT(end - begin, std::chrono::seconds(60));
}

TEST_F(AgentTest, F11_AnAttemptThatWasReplacedStops) {
  FakeCoordinator coordinator(address_);
  coordinator.refuse({grpc::StatusCode::UNAVAILABLE, "busy"});
  const Agent agent(options(), facts(), monitor_, log_);
  ASSERT_TRUE(wait_until([&] { return coordinator.heartbeats().size() > 1; }));
  EXPECT_EQ(monitor_.take_requests(), runtime::kRequestNone) << "unreachable is no reason to stop";
  coordinator.refuse({grpc::StatusCode::FAILED_PRECONDITION, "old fence"});
  EXPECT_TRUE(wait_until([&] { return monitor_.take_requests() == runtime::kRequestStop; }));
}

TEST(AgentOptions, ReadsTheEnvironmentOfAnAttempt) {
  const testing::TemporaryDirectory directory;
  unsetenv("LOCKSTEP_COORDINATOR");
  EXPECT_FALSE(options_from_environment());
  setenv("LOCKSTEP_COORDINATOR", "unix:/x", 1);
  setenv("LOCKSTEP_ATTEMPT", "run1.3.12", 1);
  setenv("LOCKSTEP_AGENT_TOKEN_FILE", directory.write("token", "secret\n").c_str(), 1);
  const auto options = options_from_environment();
  ASSERT_TRUE(options);
  EXPECT_EQ(options->run, "run1");
  EXPECT_EQ(options->attempt, 3);
  EXPECT_EQ(options->fence, 12);
  EXPECT_EQ(options->secret, "secret");
  for (const char* wrong : {"", "run1", "run1.3", ".3.12", "run1.x.12", "run1.3.", "..."}) {
    setenv("LOCKSTEP_ATTEMPT", wrong, 1);
    EXPECT_THROW(options_from_environment(), core::Error) << wrong;
  }
  setenv("LOCKSTEP_ATTEMPT", "run1.3.12", 1);
  setenv("LOCKSTEP_AGENT_TOKEN_FILE", "/nowhere", 1);
  EXPECT_THROW(options_from_environment(), core::Error);
}

}  // namespace
}  // namespace lockstep::coordinator::agent
