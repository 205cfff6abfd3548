#include "coordinator/client/client.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "coordinator/client/follow.h"
#include "coordinator/client/interrupt.h"
#include "google/rpc/error_details.pb.h"
#include "tests/coordinator/client/fake_run_service.h"

namespace lockstep::coordinator {
namespace {

using lockstep::testing::FakeRunService;
using std::chrono::milliseconds;

const Talk kSilent = [](const std::string&) {};

TEST(Client, TriesAgainWhatIsUnavailableUnderOneRequestId) {
  FakeRunService server;
  std::vector<std::string> ids;
  server.on_create = [&](grpc::ServerContext* context, const v1::CreateRunRequest* request,
                         v1::CreateRunResponse* response) {
    ids.push_back(request->request_id());
    EXPECT_LT(context->deadline(), std::chrono::system_clock::now() + std::chrono::minutes(1));
    if (ids.size() < 3) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "busy starting");
    response->mutable_run()->set_uid("x");
    return grpc::Status::OK;
  };
  Client client(server.endpoint());
  EXPECT_EQ(client.create_run({}).run().uid(), "x");
  ASSERT_EQ(ids.size(), 3U);
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()).size(), 1U);
  EXPECT_EQ(ids[0].size(), 36U);
  EXPECT_EQ(ids[0][14], '4');  // a random UUID
}

TEST(Client, TriesNothingElseAgain) {
  FakeRunService server;
  for (const auto code : {grpc::StatusCode::INTERNAL, grpc::StatusCode::RESOURCE_EXHAUSTED,
                          grpc::StatusCode::ABORTED, grpc::StatusCode::NOT_FOUND}) {
    int calls = 0;
    server.on_get = [&](const v1::GetRunRequest*, v1::Run*) {
      ++calls;
      return grpc::Status(code, "no");
    };
    Client client(server.endpoint());
    EXPECT_THROW(client.get_run({}), CallError);
    EXPECT_EQ(calls, 1);
  }
}

TEST(Client, GivesUpWhenItsPatienceEnds) {
  Endpoint nobody;
  nobody.address = "unix:/nonexistent/socket";
  nobody.patience = milliseconds(300);
  Client client(nobody);
  const auto begin = std::chrono::steady_clock::now();
  try {
    client.get_run({});
    FAIL();
  } catch (const CallError& error) {
    EXPECT_EQ(error.exit(), JobExit::kUnreachable);
    EXPECT_NE(error.text().find("lockstep coordinator"), std::string::npos) << error.text();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST(Client, ShowsTheTokenOnlyToTheServer) {
  FakeRunService server;
  std::string seen;
  server.on_create = [&](grpc::ServerContext* context, const v1::CreateRunRequest*,
                         v1::CreateRunResponse*) {
    const auto found = context->client_metadata().find("authorization");
    if (found != context->client_metadata().end()) {
      seen.assign(found->second.data(), found->second.size());
    }
    return grpc::Status(grpc::StatusCode::PERMISSION_DENIED, "scope 'submit' is missing");
  };
  Endpoint endpoint = server.endpoint();
  endpoint.token = "canary-secret";
  Client client(endpoint);
  try {
    client.create_run({});
    FAIL();
  } catch (const CallError& error) {
    EXPECT_EQ(error.exit(), JobExit::kNotFound);
    EXPECT_EQ(error.text().find("canary"), std::string::npos);
  }
  EXPECT_EQ(seen, "Bearer canary-secret");
}

TEST(Client, TellsDetailsOfAnError) {
  google::rpc::Status status;
  google::rpc::BadRequest bad;
  auto* violation = bad.add_field_violations();
  violation->set_field("run.config_yaml");
  violation->set_description("tiny.yaml:3:5: train.steps: found 0");
  google::rpc::ErrorInfo info;
  info.set_reason("CONFIG");
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(2);
  status.add_details()->PackFrom(bad);
  status.add_details()->PackFrom(info);
  status.add_details()->PackFrom(retry);
  const CallError error(grpc::StatusCode::INVALID_ARGUMENT, "the request is wrong",
                        status.SerializeAsString());
  EXPECT_EQ(error.reason(), "CONFIG");
  EXPECT_EQ(error.exit(), JobExit::kUsage);
  EXPECT_NE(error.text().find("\n  run.config_yaml: tiny.yaml:3:5: train.steps: found 0"),
            std::string::npos)
      << error.text();
  EXPECT_NE(error.text().find("2.0 s"), std::string::npos);
}

TEST(Client, ExitCodesOfRefusals) {
  const auto exit = [](int code) { return static_cast<int>(CallError(code, "", "").exit()); };
  EXPECT_EQ(exit(grpc::StatusCode::INVALID_ARGUMENT), 2);
  EXPECT_EQ(exit(grpc::StatusCode::NOT_FOUND), 5);
  EXPECT_EQ(exit(grpc::StatusCode::PERMISSION_DENIED), 5);
  EXPECT_EQ(exit(grpc::StatusCode::UNAUTHENTICATED), 5);
  EXPECT_EQ(exit(grpc::StatusCode::UNAVAILABLE), 6);
  EXPECT_EQ(exit(grpc::StatusCode::INTERNAL), 6);
  EXPECT_EQ(exit(grpc::StatusCode::FAILED_PRECONDITION), 7);
  EXPECT_EQ(exit(grpc::StatusCode::ABORTED), 7);
  EXPECT_EQ(exit(grpc::StatusCode::RESOURCE_EXHAUSTED), 7);
}

// A server that has `lines` numbered lines, whose cursor is the number of the next one, and that
// goes away in the middle of every stream.
void serve_lines(FakeRunService& server, int lines, std::atomic<int>& streams) {
  server.on_logs = [lines, &streams](grpc::ServerContext*, const v1::ReadLogsRequest* request,
                                     grpc::ServerWriter<v1::LogChunk>* writer) {
    ++streams;
    int line = request->after_cursor().empty() ? 0 : std::stoi(request->after_cursor());
    for (int sent = 0; line < lines; ++line, ++sent) {
      if (sent == 7) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "socket closed");
      v1::LogChunk chunk;
      chunk.set_data("line " + std::to_string(line) + "\n");
      chunk.set_cursor(std::to_string(line + 1));
      writer->Write(chunk);
    }
    v1::LogChunk last;
    last.set_end_of_stream(true);
    last.mutable_run()->set_state(v1::Run::FAILED);
    writer->Write(last);
    return grpc::Status::OK;
  };
}

TEST(F18_LogStreamIsExact, AcrossDisconnections) {
  FakeRunService server;
  std::atomic<int> streams{0};
  constexpr int kLines = 40;
  serve_lines(server, kLines, streams);
  Client client(server.endpoint());
  v1::ReadLogsRequest request;
  request.set_follow(true);
  std::string text;
  const auto run = read_all_logs(
      client, request, [&](const v1::LogChunk& chunk) { text += chunk.data(); }, kSilent);
  std::string expected;
  for (int line = 0; line < kLines; ++line)
    expected += "line " + std::to_string(line) + "\n";
  EXPECT_EQ(text, expected);
  EXPECT_GT(streams.load(), 3);
  ASSERT_TRUE(run.has_value());
  EXPECT_EQ(verdict(*run), JobExit::kRunFailed);
}

TEST(F3_FollowingOutlivesTheCoordinator, WithWordsAboutIt) {
  FakeRunService server;
  std::atomic<int> streams{0};
  server.on_logs = [&](grpc::ServerContext* context, const v1::ReadLogsRequest* request,
                       grpc::ServerWriter<v1::LogChunk>* writer) {
    v1::LogChunk chunk;
    if (++streams == 1) {
      chunk.set_data("before\n");
      chunk.set_cursor("1");
      writer->Write(chunk);
      while (!context->IsCancelled())
        std::this_thread::sleep_for(milliseconds(5));
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "going away");
    }
    EXPECT_EQ(request->after_cursor(), "1");
    chunk.set_data("after\n");
    chunk.set_end_of_stream(true);
    chunk.mutable_run()->set_state(v1::Run::SUCCEEDED);
    writer->Write(chunk);
    return grpc::Status::OK;
  };
  Client client(server.endpoint());
  std::thread absence;
  std::string text;
  std::vector<std::string> said;
  v1::ReadLogsRequest request;
  request.set_follow(true);
  const auto run = read_all_logs(
      client, request,
      [&](const v1::LogChunk& chunk) {
        text += chunk.data();
        if (chunk.end_of_stream()) return;
        absence = std::thread([&] {
          server.stop();
          std::this_thread::sleep_for(milliseconds(700));
          server.start();
        });
      },
      [&](const std::string& sentence) { said.push_back(sentence); });
  absence.join();
  EXPECT_EQ(text, "before\nafter\n");
  ASSERT_EQ(said.size(), 2U);
  EXPECT_NE(said[0].find("away"), std::string::npos);
  EXPECT_EQ(verdict(*run), JobExit::kOk);
}

grpc::Status refusal(grpc::StatusCode code, const std::string& reason, double retry_seconds) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  details.add_details()->PackFrom(info);
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_nanos(static_cast<int>(retry_seconds * 1e9));
  if (retry_seconds > 0.0) details.add_details()->PackFrom(retry);
  return {code, "a sentence of the coordinator", details.SerializeAsString()};
}

// A coordinator that is stopped as planned ends what waits; it comes back, and nobody noticed. Also
// when nothing has come yet of what is waited for.
TEST(Client, APlannedStopIsWaitedOutLikeADeath) {
  for (const auto code : {grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::CANCELLED}) {
    FakeRunService server;
    int calls = 0;
    const auto away = [&](auto) { return refusal(code, "SHUTTING_DOWN", 0.0); };
    server.on_wait = [&](grpc::ServerContext*, const v1::WaitRunRequest*,
                         v1::WaitRunResponse* response) {
      if (++calls < 6) return away(0);
      response->set_reached(true);
      return grpc::Status::OK;
    };
    int streams = 0;
    server.on_logs = [&](grpc::ServerContext*, const v1::ReadLogsRequest*,
                         grpc::ServerWriter<v1::LogChunk>* writer) {
      if (++streams < 4) return away(0);
      v1::LogChunk last;
      last.set_end_of_stream(true);
      last.mutable_run()->set_state(v1::Run::SUCCEEDED);
      writer->Write(last);
      return grpc::Status::OK;
    };
    Endpoint impatient = server.endpoint();
    impatient.patience = milliseconds(50);
    Client waiting(impatient);
    EXPECT_TRUE(wait_for_run(waiting, {}, milliseconds::zero()).reached());
    EXPECT_EQ(calls, 6);
    Client following(impatient);
    v1::ReadLogsRequest request;
    request.set_follow(true);
    const auto run = read_all_logs(
        following, request, [](const v1::LogChunk&) {}, kSilent);
    ASSERT_TRUE(run);
    EXPECT_EQ(verdict(*run), JobExit::kOk);
    // What does not follow is not to wait for long.
    streams = 0;
    Client reading(impatient);
    EXPECT_THROW(read_all_logs(
                     reading, {}, [](const v1::LogChunk&) {}, kSilent),
                 CallError);
  }
}

TEST(Client, WhatTheCoordinatorAsksForBeforeTheNextTryIsDone) {
  FakeRunService server;
  std::vector<std::chrono::steady_clock::time_point> calls;
  server.on_get = [&](const v1::GetRunRequest*, v1::Run*) {
    calls.push_back(std::chrono::steady_clock::now());
    return calls.size() < 2 ? refusal(grpc::StatusCode::RESOURCE_EXHAUSTED, "RATE_LIMITED", 0.7)
                            : grpc::Status::OK;
  };
  Client client(server.endpoint());
  client.get_run({});
  ASSERT_EQ(calls.size(), 2U);
  EXPECT_GE(calls[1] - calls[0], milliseconds(700));
  // A queue that is full is no matter of a moment.
  server.on_get = [](const v1::GetRunRequest*, v1::Run*) {
    return refusal(grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.9);
  };
  EXPECT_THROW(client.get_run({}), CallError);
}

TEST(Client, WhatACoordinatorSaysIsNotCalledSilence) {
  FakeRunService server;
  server.on_get = [](const v1::GetRunRequest*, v1::Run*) {
    return refusal(grpc::StatusCode::UNAVAILABLE, "NOT_YET", 0.0);
  };
  Endpoint impatient = server.endpoint();
  impatient.patience = milliseconds(10);
  Client client(impatient);
  try {
    client.get_run({});
    FAIL();
  } catch (const CallError& error) {
    EXPECT_EQ(error.text().find("no coordinator answers"), std::string::npos) << error.text();
    EXPECT_NE(error.text().find("a sentence of the coordinator"), std::string::npos);
  }
}

TEST(Client, AnInterruptEndsAStreamAndAllThatFollows) {
  FakeRunService server;
  server.on_logs = [](grpc::ServerContext* context, const v1::ReadLogsRequest*,
                      grpc::ServerWriter<v1::LogChunk>* writer) {
    writer->Write(v1::LogChunk());
    while (!context->IsCancelled())
      std::this_thread::sleep_for(milliseconds(5));
    return grpc::Status::CANCELLED;
  };
  Client client(server.endpoint());
  const Interrupt interrupt([&client] { client.interrupt(); });
  v1::ReadLogsRequest request;
  request.set_follow(true);
  EXPECT_THROW(read_all_logs(
                   client, request, [](const v1::LogChunk&) { raise(SIGINT); }, kSilent),
               Interrupted);
  EXPECT_THROW(client.get_run({}), Interrupted);
}

TEST(Client, WaitsOverSeveralCalls) {
  FakeRunService server;
  int calls = 0;
  server.on_wait = [&](grpc::ServerContext*, const v1::WaitRunRequest*,
                       v1::WaitRunResponse* response) {
    response->mutable_run()->set_state(++calls < 4 ? v1::Run::RUNNING : v1::Run::CANCELLED);
    response->set_reached(calls >= 4);
    return grpc::Status::OK;
  };
  Client client(server.endpoint());
  const auto answer = wait_for_run(client, {}, milliseconds::zero());
  EXPECT_TRUE(answer.reached());
  EXPECT_EQ(verdict(answer.run()), JobExit::kCancelled);
  EXPECT_EQ(calls, 4);
}

TEST(Client, AWaitThatTakesTooLongSaysSo) {
  FakeRunService server;
  server.on_wait = [&](grpc::ServerContext* context, const v1::WaitRunRequest*,
                       v1::WaitRunResponse*) {
    while (!context->IsCancelled())
      std::this_thread::sleep_for(milliseconds(5));
    return grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "");
  };
  server.on_get = [](const v1::GetRunRequest*, v1::Run* run) {
    run->set_state(v1::Run::QUEUED);
    return grpc::Status::OK;
  };
  Client client(server.endpoint());
  const auto answer = wait_for_run(client, {}, milliseconds(300));
  EXPECT_FALSE(answer.reached());
  EXPECT_EQ(answer.run().state(), v1::Run::QUEUED);
}

}  // namespace
}  // namespace lockstep::coordinator
