// Limits and their boundaries, and what a caller cannot do to others: S9, S10, S12, S13.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <thread>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/log_writer.h"
#include "coordinator/server/conversions.h"
#include "coordinator/server/run_list.h"
#include "lockstep/v1/run_service.grpc.pb.h"
#include "tests/coordinator/server/raw_call.h"
#include "tests/coordinator/server/test_server.h"

namespace lockstep::coordinator::testing {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;

v1::CreateRunRequest create_request(const TestServer& server, const std::string& name) {
  v1::CreateRunRequest request;
  request.mutable_run()->set_display_name(name);
  request.mutable_run()->set_config_yaml(tiny_config((server.directory / name).string()));
  request.set_request_id(new_request_id());
  return request;
}

grpc::Status create(TestServer& server, v1::RunService::Stub& stub,
                    const v1::CreateRunRequest& request, const std::string& secret = "") {
  v1::CreateRunResponse response;
  const grpc::Status status = stub.CreateRun(new_context(secret).get(), request, &response);
  if (status.ok() && !request.validate_only()) {
    server.acknowledged(response.run().owner(), request.request_id(), response.run().uid());
  }
  return status;
}

TEST(S9_Limits, FieldsAtTheirLimitAndOneMore) {
  TestServer server;
  const auto stub = v1::RunService::NewStub(server.channel());
  using Change = std::function<void(v1::CreateRunRequest&, int)>;
  const Change changes[] = {
      [](auto& request, int more) {
        std::string* yaml = request.mutable_run()->mutable_config_yaml();
        *yaml +=
            "#" +
            std::string(kMaxConfigBytes - yaml->size() - 1 + static_cast<std::size_t>(more), 'x');
      },
      [](auto& request, int more) {
        for (int i = 0; i < kMaxLabels + more; ++i)
          (*request.mutable_run()->mutable_labels())["k" + std::to_string(i)] = "v";
      },
      [](auto& request, int more) {
        request.mutable_run()->set_display_name(
            std::string(kMaxDisplayNameBytes + static_cast<std::size_t>(more), 'n'));
      },
      [](auto& request, int more) {
        request.mutable_run()->set_notes(
            std::string(kMaxNotesBytes + static_cast<std::size_t>(more), 'n'));
      },
      [](auto& request, int more) { request.mutable_run()->set_priority(kMaxPriority + more); },
      [](auto& request, int more) {
        for (int i = 0; i < kMaxOverrides + more; ++i)
          request.mutable_run()->add_overrides("run.seed=" + std::to_string(i));
      },
      [](auto& request, int more) {
        std::string* yaml = request.mutable_run()->mutable_config_yaml();
        // One level is the map that the key stands in.
        const auto levels = static_cast<std::size_t>(kMaxConfigDepth - 1 + more);
        *yaml += "model_x: " + std::string(levels, '[') + std::string(levels, ']') + "\n";
      }};
  int number = 0;
  for (const Change& change : changes) {
    ++number;
    v1::CreateRunRequest request = create_request(server, "at" + std::to_string(number));
    change(request, 0);
    request.set_validate_only(true);
    const grpc::Status at = create(server, *stub, request);
    request = create_request(server, "over" + std::to_string(number));
    request.set_validate_only(true);
    change(request, 1);
    const grpc::Status over = create(server, *stub, request);
    // At the depth limit the key is still unknown, but that is the configuration's own complaint.
    EXPECT_NE(reason_of(at), "INVALID_FIELD") << number << ": " << at.error_message();
    EXPECT_EQ(over.error_code(), StatusCode::INVALID_ARGUMENT) << number;
    EXPECT_EQ(reason_of(over), "INVALID_FIELD") << number << ": " << over.error_message();
  }
}

TEST(S9_Limits, MessagesAreRefusedBeforeTheyAreRead) {
  TestServer server;
  const std::string method = "/lockstep.v1.RunService/CreateRun";
  EXPECT_EQ(raw_call(server.channel(), method, std::string((1 << 20) + 1, 'x')).status.error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(raw_call(server.channel(), method, std::string(1 << 20, 'x')).status.error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
}

TEST(S9_Limits, BillionLaughsAreRefusedAtOnce) {
  TestServer server;
  const auto stub = v1::RunService::NewStub(server.channel());
  v1::CreateRunRequest request = create_request(server, "laughs");
  std::string* yaml = request.mutable_run()->mutable_config_yaml();
  *yaml += "a0: &a0 lol\n";
  for (int i = 1; i < 12; ++i) {
    *yaml += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 9; ++j)
      *yaml += "*a" + std::to_string(i - 1) + ", ";
    *yaml += "]\n";
  }
  const auto begin = std::chrono::steady_clock::now();
  const grpc::Status status = create(server, *stub, request);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("anchor"));
}

TEST(S9_Limits, OfTheQueueOfAllAndOfOneCaller) {
  TestServer server([](CoordinatorConfig& config, EngineOptions& options) {
    options.hosts[0].slots = 1;
    options.max_queued = config.limits.queued_runs = 4;
    options.max_queued_per_caller = config.limits.queued_runs_per_caller = 2;
  });
  const auto stub = v1::RunService::NewStub(server.channel());
  const std::string running = server.submit("running")->run.id;
  server.wait_for(running, RunState::kRunning);
  const std::string alice = server.secret_of("alice", {"submit"});
  ASSERT_TRUE(create(server, *stub, create_request(server, "a1"), alice).ok());
  const v1::CreateRunRequest second = create_request(server, "a2");
  ASSERT_TRUE(create(server, *stub, second, alice).ok());
  const grpc::Status third = create(server, *stub, create_request(server, "a3"), alice);
  EXPECT_EQ(third.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(reason_of(third), "QUEUE_FULL");
  // What was acknowledged is answered again, full or not.
  EXPECT_TRUE(create(server, *stub, second, alice).ok());
  ASSERT_TRUE(create(server, *stub, create_request(server, "l1")).ok());
  ASSERT_TRUE(create(server, *stub, create_request(server, "l2")).ok());
  const std::string bob = server.secret_of("bob", {"submit"});
  EXPECT_EQ(reason_of(create(server, *stub, create_request(server, "b1"), bob)), "QUEUE_FULL");
}

TEST(S9_Limits, OfStreamsOfOneCaller) {
  TestServer server(
      [](CoordinatorConfig& config, EngineOptions&) { config.limits.streams_per_caller = 3; });
  const auto stub = v1::RunService::NewStub(server.channel());
  server.submit("seen");
  const auto open = [&](const std::string& secret, auto& contexts, auto& streams) {
    contexts.push_back(new_context(secret, std::chrono::seconds(30)));
    streams.push_back(stub->WatchRuns(contexts.back().get(), v1::WatchRunsRequest()));
    v1::RunEvent event;
    return streams.back()->Read(&event);
  };
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::RunEvent>>> streams;
  for (int i = 0; i < 3; ++i)
    EXPECT_TRUE(open("", contexts, streams));
  EXPECT_FALSE(open("", contexts, streams));
  EXPECT_EQ(reason_of(streams.back()->Finish()), "TOO_MANY_STREAMS");
  EXPECT_TRUE(open(server.secret_of("other", {"read"}), contexts, streams));
  // One that ends makes room.
  contexts[0]->TryCancel();
  streams[0]->Finish();
  bool opened = false;
  for (int i = 0; i < 100 && !opened; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    opened = open("", contexts, streams);
  }
  EXPECT_TRUE(opened);
  for (const auto& context : contexts)
    context->TryCancel();
}

int connect_to(const std::filesystem::path& path) {
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.native().size() + 1);
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  if (::connect(socket, generic, sizeof(address)) != 0) {
    ::close(socket);
    return -1;
  }
  return socket;
}

TEST(S9_Limits, IdleConnectionsDoNotKeepOthersOut) {
  TestServer server;
  std::vector<int> sockets;
  for (int i = 0; i < 400; ++i) {
    sockets.push_back(connect_to(server.config.listen[0].path));
    ASSERT_GE(sockets.back(), 0) << i << ": " << std::strerror(errno);
  }
  const RawAnswer answer = raw_call(server.channel(), "/lockstep.v1.RunService/ListRuns", "");
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  for (const int socket : sockets)
    ::close(socket);
}

TEST(S9_Limits, PagesAreBounded) {
  TestServer server;
  for (int i = 0; i < 7; ++i)
    server.submit("r" + std::to_string(i));
  const auto stub = v1::RunService::NewStub(server.channel());
  v1::ListRunsRequest request;
  request.set_page_size(-1);
  v1::ListRunsResponse response;
  EXPECT_EQ(stub->ListRuns(new_context().get(), request, &response).error_code(),
            StatusCode::INVALID_ARGUMENT);
  request.set_page_size(3);
  request.set_order_by("display_name");
  std::vector<std::string> names;
  do {
    response.Clear();
    ASSERT_TRUE(stub->ListRuns(new_context().get(), request, &response).ok());
    EXPECT_LE(response.runs_size(), 3);
    EXPECT_EQ(response.total_size(), 7);
    for (const v1::Run& run : response.runs())
      names.push_back(run.display_name());
    request.set_page_token(response.next_page_token());
  } while (!response.next_page_token().empty());
  EXPECT_THAT(names, ::testing::ElementsAre("r0", "r1", "r2", "r3", "r4", "r5", "r6"));
  // A token of one caller is no good to another.
  request.clear_page_token();
  ASSERT_TRUE(stub->ListRuns(new_context().get(), request, &response).ok());
  request.set_page_token(response.next_page_token());
  const std::string other = server.secret_of("other", {"read"});
  EXPECT_EQ(stub->ListRuns(new_context(other).get(), request, &response).error_code(),
            StatusCode::INVALID_ARGUMENT);
}

std::int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t size = 0;
  std::int64_t resident = 0;
  statm >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

// Logs of `bytes` bytes for rank 0 of the run's first attempt, as the supervisor would write them.
void write_log(const TestServer& server, const std::string& run, std::int64_t bytes) {
  const std::string directory =
      attempt_directory(server.config.state_directory.string(), {run, 1, 1}) + "/logs";
  std::filesystem::create_directories(directory);
  const Descriptor folder(::open(directory.c_str(), O_RDONLY | O_DIRECTORY));
  LogWriter writer(folder.get(), log_stream_name(0, false), LogLayout::of(4 * bytes), 0);
  const std::string line(1023, 'x');
  for (std::int64_t i = 0; i < bytes / 1024; ++i)
    writer.write(line + "\n", 1 + i);
  writer.finish(bytes);
}

TEST(S10_SlowReaders, FiftyThatNeverReadCostLittleAndHoldNobodyUp) {
  TestServer server(
      [](CoordinatorConfig& config, EngineOptions&) { config.limits.streams_per_caller = 64; });
  const std::string id = server.submit("loud")->run.id;
  server.wait_for(id, RunState::kRunning);
  write_log(server, id, std::int64_t{256} << 20);
  // Both ends are in this process: the client's share is kept to a window of 64 KiB a stream.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto stub = v1::RunService::NewStub(
      grpc::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(), arguments));
  v1::ReadLogsRequest request;
  request.set_name(id);
  request.set_follow(true);
  const std::int64_t before = resident_bytes();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::LogChunk>>> streams;
  for (int i = 0; i < 50; ++i) {
    contexts.push_back(new_context("", std::chrono::seconds(120)));
    streams.push_back(stub->ReadLogs(contexts.back().get(), request));
  }
  std::int64_t most = 0;
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    most = std::max(most, resident_bytes() - before);
  }
  EXPECT_LT(most, std::int64_t{64} << 20);
  // Others are served meanwhile, streams too.
  const auto context = new_context("", std::chrono::seconds(60));
  const auto reader = v1::RunService::NewStub(server.channel())->ReadLogs(context.get(), request);
  v1::LogChunk chunk;
  std::size_t bytes = 0;
  while (bytes < (std::size_t{4} << 20) && reader->Read(&chunk))
    bytes += chunk.data().size();
  EXPECT_GE(bytes, std::size_t{4} << 20);
  context->TryCancel();
  for (const auto& slow : contexts)
    slow->TryCancel();
}

TEST(S12_RateLimits, AFloodOfListsLeavesCancelAlone) {
  TestServer server;
  const std::string flooder = server.secret_of("flooder", {"submit", "read"});
  const std::string own = server.submit("own", {"flooder", "test"})->run.id;
  const std::string other = server.submit("other")->run.id;
  const auto stub = v1::RunService::NewStub(server.channel());
  grpc::Status limited;
  for (int i = 0; i < 20'000 && limited.ok(); ++i) {
    v1::ListRunsResponse response;
    limited = stub->ListRuns(new_context(flooder).get(), v1::ListRunsRequest(), &response);
  }
  ASSERT_EQ(limited.error_code(), StatusCode::RESOURCE_EXHAUSTED) << limited.error_message();
  EXPECT_EQ(reason_of(limited), "RATE_LIMITED");
  bool has_retry = false;
  const google::rpc::Status details = details_of(limited);
  for (const auto& detail : details.details())
    has_retry = has_retry || detail.Is<google::rpc::RetryInfo>();
  EXPECT_TRUE(has_retry);
  v1::CancelRunRequest cancel;
  v1::Run run;
  for (const auto& [id, secret] : {std::pair(own, flooder), std::pair(other, std::string())}) {
    const auto begin = std::chrono::steady_clock::now();
    cancel.set_name(id);
    cancel.set_request_id(new_request_id());
    const grpc::Status status = stub->CancelRun(new_context(secret).get(), cancel, &run);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  }
}

TEST(S13_ControlBytes, NeverReachNamesReasonsOrTheServersLog) {
  TestServer server;
  const auto stub = v1::RunService::NewStub(server.channel());
  const std::string id = server.submit("plain")->run.id;
  for (const std::string evil :
       {"\x1b[2J\x1b[31mgone", "\x1b]0;title\x07", "a\rb", "a\nb", "\x7f", "nul\0l"}) {
    v1::CreateRunRequest request = create_request(server, "evil");
    request.mutable_run()->set_display_name(evil + "\x01");
    EXPECT_EQ(create(server, *stub, request).error_code(), StatusCode::INVALID_ARGUMENT);
    request = create_request(server, "evil");
    (*request.mutable_run()->mutable_labels())["k"] = evil + "\x01";
    EXPECT_EQ(create(server, *stub, request).error_code(), StatusCode::INVALID_ARGUMENT);
    v1::CancelRunRequest cancel;
    cancel.set_name(id);
    cancel.set_reason(evil + "\x01");
    v1::Run run;
    EXPECT_EQ(stub->CancelRun(new_context().get(), cancel, &run).error_code(),
              StatusCode::INVALID_ARGUMENT);
    v1::GetRunRequest get;
    get.set_name(evil);
    EXPECT_FALSE(stub->GetRun(new_context().get(), get, &run).ok());
  }
  for (const char c : server.log_text())
    EXPECT_TRUE(c == '\n' || (static_cast<unsigned char>(c) >= 0x20 && c != '\x7f'));
}

}  // namespace
}  // namespace lockstep::coordinator::testing
