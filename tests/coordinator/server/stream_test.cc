// Streams and verbs: F6, F18, watching, metrics, waiting, random bytes (S15).
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/log_writer.h"
#include "lockstep/v1/cluster_service.grpc.pb.h"
#include "lockstep/v1/run_service.grpc.pb.h"
#include "tests/coordinator/server/raw_call.h"
#include "tests/coordinator/server/test_server.h"

namespace lockstep::coordinator::testing {
namespace {

using grpc::StatusCode;

// Writes numbered lines as the ranks of an attempt would, until told to stop.
class CounterLogs {
 public:
  CounterLogs(const TestServer& server, const std::string& run) {
    const std::string directory =
        attempt_directory(server.config.state_directory.string(), {run, 1, 1}) + "/logs";
    std::filesystem::create_directories(directory);
    folder_ = Descriptor(::open(directory.c_str(), O_RDONLY | O_DIRECTORY));
    for (int rank = 0; rank < 2; ++rank) {
      for (const bool err : {false, true}) {
        // Small segments, so that the log is rotated while it is read; large enough to lose
        // nothing.
        writers_.push_back(std::make_unique<LogWriter>(folder_.get(), log_stream_name(rank, err),
                                                       LogLayout::of(4 << 20), 0));
      }
    }
    thread_ = std::thread([this] { write(); });
  }
  ~CounterLogs() { stop(); }

  // The number of lines of each stream.
  int stop() {
    stopped_ = true;
    if (thread_.joinable()) thread_.join();
    return lines_;
  }

 private:
  void write() {
    std::mt19937 random(7);
    while (!stopped_) {
      const std::string text = "line " + std::to_string(lines_) + std::string(random() % 90, '.');
      for (const auto& writer : writers_)
        writer->write(text + "\n", SystemClock().now_ns());
      ++lines_;
      if (lines_ % 64 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    for (const auto& writer : writers_)
      writer->finish(SystemClock().now_ns());
  }

  Descriptor folder_;
  std::vector<std::unique_ptr<LogWriter>> writers_;
  std::atomic<bool> stopped_ = false;
  int lines_ = 0;
  std::thread thread_;
};

TEST(F18_LogStream, IsExactAcrossReconnectsRotationAndCancel) {
  TestServer server;
  const std::string id = server.submit("counting")->run.id;
  server.wait_for(id, RunState::kRunning);
  CounterLogs logs(server, id);
  std::map<std::pair<int, int>, std::string> seen;
  std::string cursor;
  std::mt19937 random(11);
  int connections = 0;
  int written = 0;
  v1::LogChunk last;
  for (bool over = false; !over; ++connections) {
    ASSERT_LT(connections, 2000);
    if (connections == 60) {
      written = logs.stop();
      v1::CancelRunRequest cancel;
      cancel.set_name(id);
      cancel.set_request_id(new_request_id());
      v1::Run run;
      ASSERT_TRUE(v1::RunService::NewStub(server.channel())
                      ->CancelRun(new_context().get(), cancel, &run)
                      .ok());
    }
    const auto stub = v1::RunService::NewStub(server.channel());
    const auto context = new_context("", std::chrono::seconds(30));
    v1::ReadLogsRequest request;
    request.set_name(id);
    request.set_follow(true);
    request.set_after_cursor(cursor);
    const auto stream = stub->ReadLogs(context.get(), request);
    // Goes away in the middle, until the run is cancelled.
    const auto most = connections < 60 ? random() % 6 : 1'000'000;
    v1::LogChunk chunk;
    for (std::size_t i = 0; i < most && stream->Read(&chunk); ++i) {
      EXPECT_EQ(chunk.dropped_bytes(), 0);
      seen[{chunk.rank(), chunk.stream()}] += chunk.data();
      cursor = chunk.cursor();
      if (chunk.end_of_stream()) over = true;
      last = chunk;
    }
    context->TryCancel();
    stream->Finish();
  }
  EXPECT_EQ(last.run().state(), v1::Run::CANCELLED);
  ASSERT_EQ(seen.size(), 4u + (seen.count({0, 0}) ? 1u : 0u));
  for (int rank = 0; rank < 2; ++rank) {
    for (const int stream : {v1::ReadLogsRequest::STDOUT, v1::ReadLogsRequest::STDERR}) {
      std::istringstream lines(seen[{rank, stream}]);
      int count = 0;
      for (std::string line; std::getline(lines, line); ++count)
        ASSERT_TRUE(line.starts_with("line " + std::to_string(count))) << line;
      EXPECT_EQ(count, written);
    }
  }
}

TEST(F18_LogStream, WithoutFollowEndsWithTheRunAsItIs) {
  TestServer server;
  const std::string id = server.submit("quiet")->run.id;
  server.wait_for(id, RunState::kRunning);
  const auto stub = v1::RunService::NewStub(server.channel());
  v1::ReadLogsRequest request;
  request.set_name(id);
  const auto context = new_context();
  const auto stream = stub->ReadLogs(context.get(), request);
  v1::LogChunk chunk;
  ASSERT_TRUE(stream->Read(&chunk));
  EXPECT_TRUE(chunk.end_of_stream());
  EXPECT_EQ(chunk.run().state(), v1::Run::RUNNING);
  EXPECT_FALSE(stream->Read(&chunk));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST(F6_Cancel, IsAnsweredWithinATenthOfASecondInEveryState) {
  TestServer server([](CoordinatorConfig&, EngineOptions& options) {
    options.hosts[0].slots = 3;
    options.agent_address = "unix:/nowhere";  // the test speaks for the agents
  });
  const auto stub = v1::RunService::NewStub(server.channel());
  std::map<std::string, std::string> runs;  // by state
  CreateRequest held;
  held.config_yaml = tiny_config((server.directory / "held").string());
  held.hold = true;
  runs["WAITING"] = server.engine->create(held, {}).run->run.id;
  int launches = 0;
  const auto launched = [&](const std::string& name) {
    const std::string id = server.submit(name)->run.id;
    server.wait_for(id, RunState::kStarting);
    for (++launches; server.attempts.launches() < launches;)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return id;
  };
  const auto started = [&](const std::string& name) {
    const std::string id = launched(name);
    server.engine->register_agent(
        {server.engine->find(id)->current_ref(), 1, "localhost", 1, 20, 0});
    server.wait_for(id, RunState::kRunning);
    return id;
  };
  runs["PAUSED"] = started("paused");
  server.engine->pause({runs["PAUSED"], "test", new_request_id()}, {});
  Beat beat;
  beat.attempt = server.engine->find(runs["PAUSED"])->current_ref();
  beat.step = beat.checkpoint_step = 5;
  beat.acked_control_id = server.engine->heartbeat(beat).control_id;
  server.engine->heartbeat(beat);
  server.attempts.end(runs["PAUSED"], 7);
  server.wait_for(runs["PAUSED"], RunState::kPaused);
  runs["SUCCEEDED"] = started("succeeded");
  server.attempts.end(runs["SUCCEEDED"], 0);
  server.wait_for(runs["SUCCEEDED"], RunState::kSucceeded);
  runs["RUNNING"] = started("running");
  runs["STARTING"] = launched("starting");
  started("other");  // all slots are taken now
  runs["QUEUED"] = server.submit("queued")->run.id;
  for (int i = 0; i < 50; ++i)
    server.submit("more" + std::to_string(i));
  std::vector<double> milliseconds;
  for (const auto& [state, id] : runs) {
    v1::CancelRunRequest request;
    request.set_name(id);
    request.set_request_id(new_request_id());
    v1::Run run;
    const auto begin = std::chrono::steady_clock::now();
    const grpc::Status status = stub->CancelRun(new_context().get(), request, &run);
    milliseconds.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
            .count());
    EXPECT_TRUE(status.ok()) << state << ": " << status.error_message();
    const RunState end = state == "SUCCEEDED" ? RunState::kSucceeded : RunState::kCancelled;
    server.wait_for(id, end);
    // Repeating it is fine, too.
    request.set_request_id(new_request_id());
    EXPECT_TRUE(stub->CancelRun(new_context().get(), request, &run).ok()) << state;
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  // The middle one, since the machine may be busy with other tests.
  EXPECT_LT(milliseconds[milliseconds.size() / 2], 100);
  EXPECT_LT(milliseconds.back(), 2000);
}

TEST(WatchRuns, BeginsWithEachRunAndGoesOnWithoutAGap) {
  TestServer server;
  const std::string first = server.submit("first")->run.id;
  server.wait_for(first, RunState::kRunning);
  const auto stub = v1::RunService::NewStub(server.channel());
  auto context = new_context("", std::chrono::seconds(30));
  auto stream = stub->WatchRuns(context.get(), v1::WatchRunsRequest());
  v1::RunEvent event;
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_EQ(event.kind(), "snapshot");
  EXPECT_EQ(event.run(), first);
  EXPECT_EQ(event.run_after().state(), v1::Run::RUNNING);
  const std::int64_t begin = event.sequence();
  server.attempts.end(first, 0);
  std::vector<std::int64_t> sequences;
  while (event.kind() != "terminal" && stream->Read(&event))
    sequences.push_back(event.sequence());
  EXPECT_EQ(event.run_after().state(), v1::Run::SUCCEEDED);
  for (std::size_t i = 0; i < sequences.size(); ++i)
    EXPECT_EQ(sequences[i], begin + 1 + static_cast<std::int64_t>(i));
  context->TryCancel();
  stream->Finish();
  // Again from the start of the log: every event once, in order.
  context = new_context("", std::chrono::seconds(30));
  v1::WatchRunsRequest request;
  request.set_from_sequence(1);
  stream = stub->WatchRuns(context.get(), request);
  std::int64_t expected = 2;
  do {
    ASSERT_TRUE(stream->Read(&event));
    EXPECT_EQ(event.sequence(), expected++);
  } while (event.kind() != "terminal");
  context->TryCancel();
  stream->Finish();
  request.set_from_sequence(1'000'000);
  context = new_context();
  stream = stub->WatchRuns(context.get(), request);
  EXPECT_FALSE(stream->Read(&event));
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::OUT_OF_RANGE);
}

TEST(ReadMetrics, FollowsSelectsAndTellsOfACut) {
  TestServer server;
  const RunPtr record = server.submit("measured");
  const std::string id = record->run.id;
  server.wait_for(id, RunState::kRunning);
  std::filesystem::create_directories(record->run.output);
  const std::string file = record->run.output + "/metrics.jsonl";
  const auto append = [&file](int from, int to) {
    std::ofstream out(file, std::ios::app);
    for (int step = from; step <= to; ++step)
      out << R"({"event":"step","step":)" << step << "}\n";
  };
  append(1, 20);
  const auto stub = v1::RunService::NewStub(server.channel());
  v1::ReadMetricsRequest request;
  request.set_name(id);
  request.set_first_step(18);
  request.set_follow(true);
  const auto context = new_context("", std::chrono::seconds(30));
  const auto stream = stub->ReadMetrics(context.get(), request);
  v1::MetricsChunk chunk;
  ASSERT_TRUE(stream->Read(&chunk));
  EXPECT_EQ(std::count(chunk.lines().begin(), chunk.lines().end(), '\n'), 3);
  const std::int64_t whole = chunk.next_offset();
  std::filesystem::resize_file(file, static_cast<std::uintmax_t>(whole) / 2);
  ASSERT_TRUE(stream->Read(&chunk));
  EXPECT_TRUE(chunk.cut_back());
  EXPECT_LE(chunk.next_offset(), whole / 2);
  std::filesystem::resize_file(file, static_cast<std::uintmax_t>(chunk.next_offset()));
  append(100, 101);
  ASSERT_TRUE(stream->Read(&chunk));
  EXPECT_THAT(chunk.lines(), ::testing::HasSubstr("101"));
  server.attempts.end(id, 0);
  do {
    ASSERT_TRUE(stream->Read(&chunk));
  } while (!chunk.end_of_stream());
  EXPECT_EQ(chunk.run().state(), v1::Run::SUCCEEDED);
}

TEST(WaitRun, AnswersWhenItHoldsOrBeforeTheDeadline) {
  TestServer server;
  const std::string id = server.submit("waited")->run.id;
  server.wait_for(id, RunState::kRunning);
  const auto stub = v1::RunService::NewStub(server.channel());
  v1::WaitRunRequest request;
  request.set_name(id);
  v1::WaitRunResponse response;
  grpc::Status status =
      stub->WaitRun(new_context("", std::chrono::milliseconds(1500)).get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_FALSE(response.reached());
  std::thread ending([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    server.attempts.end(id, 0);
  });
  status = stub->WaitRun(new_context().get(), request, &response);
  ending.join();
  EXPECT_TRUE(status.ok() && response.reached()) << status.error_message();
  EXPECT_EQ(response.run().state(), v1::Run::SUCCEEDED);
}

TEST(Shutdown, EndsStreamsAndWaitsAndIsAskedForByAdminsOnly) {
  TestServer server;
  const std::string id = server.submit("going-on")->run.id;
  server.wait_for(id, RunState::kRunning);
  const auto stub = v1::RunService::NewStub(server.channel());
  const auto context = new_context("", std::chrono::seconds(30));
  const auto stream = stub->WatchRuns(context.get(), v1::WatchRunsRequest());
  v1::RunEvent event;
  ASSERT_TRUE(stream->Read(&event));
  grpc::Status waited;
  std::thread waiting([&] {
    v1::WaitRunRequest request;
    request.set_name(id);
    v1::WaitRunResponse response;
    waited = stub->WaitRun(new_context("", std::chrono::seconds(30)).get(), request, &response);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_TRUE(
      raw_call(server.channel(), "/lockstep.v1.AdminService/ShutdownServer", "").status.ok());
  EXPECT_EQ(server.shutdown_requests, 1);
  server.server->shutdown();
  waiting.join();
  EXPECT_EQ(waited.error_code(), StatusCode::UNAVAILABLE);
  while (stream->Read(&event)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(server.engine->find(id)->run.state, RunState::kRunning);  // training goes on
}

TEST(S15_RandomBytes, ToEveryMethodNeverCrashOrConfuse) {
  TestServer server;
  const std::string id = server.submit("target")->run.id;
  const auto channel = server.channel();
  std::mt19937 random(20261121);
  const int rounds = std::getenv("LOCKSTEP_SOAK") == nullptr ? 25 : 2000;
  int internal = 0;
  for (const std::string& method : all_methods()) {
    if (method.ends_with("/ShutdownServer") || method.ends_with("/BackupStore")) continue;
    for (int i = 0; i < rounds; ++i) {
      // Half junk, half fields with plausible tags and lengths.
      std::string bytes;
      const auto size = random() % 200;
      while (bytes.size() < size) {
        if (random() % 2 == 0) {
          bytes += static_cast<char>(random());
        } else {
          const std::string text = random() % 3 == 0 ? id : std::string(random() % 20, 'a');
          bytes += static_cast<char>(((random() % 12 + 1) << 3) | 2);
          bytes += static_cast<char>(text.size());
          bytes += text;
        }
      }
      const RawAnswer answer = raw_call(channel, method, bytes, "", std::chrono::milliseconds(250));
      const StatusCode code = answer.status.error_code();
      // gRPC itself answers INTERNAL where the bytes are no message.
      if (code == StatusCode::INTERNAL && !reason_of(answer.status).empty()) {
        ++internal;
        ADD_FAILURE() << method << ": " << answer.status.error_message();
      }
      if (code == StatusCode::RESOURCE_EXHAUSTED) break;
    }
  }
  EXPECT_EQ(internal, 0);
  const RawAnswer answer = raw_call(channel, "/lockstep.v1.RunService/ListRuns", "");
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
}

}  // namespace
}  // namespace lockstep::coordinator::testing
