#include <grpcpp/grpcpp.h>
#include <algorithm>

#include "coordinator/server/conversions.h"
#include "coordinator/server/run_list.h"
#include "coordinator/server/run_sources.h"
#include "coordinator/server/services.h"
#include "coordinator/server/unary_call.h"
#include "coordinator/server/wait_call.h"
#include "core/error.h"
#include "lockstep/v1/run_service.grpc.pb.h"

namespace lockstep::coordinator {
namespace {

using Call = std::shared_ptr<UnaryCall>;
using Context = grpc::CallbackServerContext;
using Reactor = grpc::ServerUnaryReactor;

bool has_come_to(const Run& run, const v1::WaitRunRequest& request) {
  switch (request.until()) {
    case v1::WaitRunRequest::RUNNING:
      return run.state == RunState::kRunning;
    case v1::WaitRunRequest::STEP:
      return run.progress.step >= request.step();
    case v1::WaitRunRequest::CHECKPOINT:
      return run.checkpoint_step > 0 && run.checkpoint_step >= request.step();
    case v1::WaitRunRequest::PAUSED:
      return run.state == RunState::kPaused;
    case v1::WaitRunRequest::CHECKPOINT_ANSWER:
      return run.checkpoint_control_id > request.step() || !run.checkpoint_wanted ||
             run.state != RunState::kRunning;
    default:
      return is_terminal(run.state);
  }
}

// The checkpoint that was asked for; nothing while it is not whole. Throws when it never will be.
bool checkpoint_is_there(const Run& run, std::int64_t step_before) {
  if (!run.checkpoint_wanted && run.checkpoint_step > step_before) return true;
  if (run.checkpoint_wanted && run.state == RunState::kRunning) return false;
  throw EngineError(ErrorCode::kAborted, "CHECKPOINT_FAILED",
                    std::string("no checkpoint came of the request; the run is ") +
                        to_string(run.state) + "; its log and `lockstep explain` say why")
      .with("state", to_string(run.state));
}

class RunService final : public v1::RunService::CallbackService {
 public:
  explicit RunService(ServerState& state) : state_(state), engine_(state.engine) {}

  Reactor* CreateRun(Context* context, const v1::CreateRunRequest* request,
                     v1::CreateRunResponse* response) override {
    return serve(
        state_, context, "lockstep.v1.RunService/CreateRun", *request, [=, this](const Call& call) {
          *response =
              to_proto(engine_.create(from_proto(*request, state_.retry_defaults), call->caller()));
        });
  }

  Reactor* GetRun(Context* context, const v1::GetRunRequest* request, v1::Run* response) override {
    return serve(state_, context, "lockstep.v1.RunService/GetRun", *request,
                 [=, this](const Call&) {
                   *response = to_proto(*engine_.find(request->name()), Texts::kWith);
                 });
  }

  Reactor* ListRuns(Context* context, const v1::ListRunsRequest* request,
                    v1::ListRunsResponse* response) override {
    return serve(
        state_, context, "lockstep.v1.RunService/ListRuns", *request, [=, this](const Call& call) {
          list_runs(engine_.list(), *request, call->caller().name, state_.page_tokens, *response);
        });
  }

  Reactor* UpdateRun(Context* context, const v1::UpdateRunRequest* request,
                     v1::Run* response) override {
    return serve(state_, context, "lockstep.v1.RunService/UpdateRun", *request,
                 [=, this](const Call& call) {
                   set(response, engine_.update(from_proto(*request), call->caller()));
                 });
  }

  Reactor* CancelRun(Context* context, const v1::CancelRunRequest* request,
                     v1::Run* response) override {
    return serve(state_, context, "lockstep.v1.RunService/CancelRun", *request,
                 [=, this](const Call& call) {
                   set(response, engine_.cancel(from_proto(*request), call->caller()));
                 });
  }

  Reactor* PauseRun(Context* context, const v1::PauseRunRequest* request,
                    v1::Run* response) override {
    return serve(state_, context, "lockstep.v1.RunService/PauseRun", *request,
                 [=, this](const Call& call) {
                   set(response, engine_.pause(from_proto(*request), call->caller()));
                 });
  }

  Reactor* ResumeRun(Context* context, const v1::ResumeRunRequest* request,
                     v1::Run* response) override {
    return serve(
        state_, context, "lockstep.v1.RunService/ResumeRun", *request, [=, this](const Call& call) {
          set(response, engine_.resume(request->name(), request->request_id(), call->caller()));
        });
  }

  Reactor* CheckpointRun(Context* context, const v1::CheckpointRunRequest* request,
                         v1::CheckpointRunResponse* response) override {
    return serve(state_, context, "lockstep.v1.RunService/CheckpointRun", *request,
                 [=, this](const Call& call) { checkpoint(call, *request, response); });
  }

  Reactor* RetryRun(Context* context, const v1::RetryRunRequest* request,
                    v1::Run* response) override {
    return serve(state_, context, "lockstep.v1.RunService/RetryRun", *request,
                 [=, this](const Call& call) {
                   set(response, engine_.retry(from_proto(*request), call->caller()));
                 });
  }

  Reactor* DeleteRun(Context* context, const v1::DeleteRunRequest* request,
                     v1::DeleteRunResponse* response) override {
    return serve(state_, context, "lockstep.v1.RunService/DeleteRun", *request,
                 [=, this](const Call& call) {
                   response->set_archive(engine_.delete_run(from_proto(*request), call->caller()));
                 });
  }

  Reactor* WaitRun(Context* context, const v1::WaitRunRequest* request,
                   v1::WaitRunResponse* response) override {
    return serve(state_, context, "lockstep.v1.RunService/WaitRun", *request,
                 [=, this](const Call& call) {
                   const std::string run = engine_.find(request->name())->run.id;
                   WaitCall::begin(state_, call, run, [=](const RunPtr& record, bool last) {
                     const bool reached = has_come_to(record->run, *request);
                     if (!reached && !last && !is_terminal(record->run.state)) return false;
                     *response->mutable_run() = to_proto(*record, Texts::kWithout);
                     response->set_reached(reached);
                     return true;
                   });
                 });
  }

  Reactor* ExplainRun(Context* context, const v1::ExplainRunRequest* request,
                      v1::ExplainRunResponse* response) override {
    return serve(
        state_, context, "lockstep.v1.RunService/ExplainRun", *request,
        [=, this](const Call&) { *response = to_proto(engine_.explain(request->name())); });
  }

  Reactor* ListCheckpoints(Context* context, const v1::ListCheckpointsRequest* request,
                           v1::ListCheckpointsResponse* response) override {
    return serve(state_, context, "lockstep.v1.RunService/ListCheckpoints", *request,
                 [=, this](const Call&) {
                   const std::string run = engine_.find(request->name())->run.id;
                   for (const auto& checkpoint : engine_.list_checkpoints(run, request->verify()))
                     *response->add_checkpoints() = to_proto(checkpoint, run);
                 });
  }

  Reactor* ListAttempts(Context* context, const v1::ListAttemptsRequest* request,
                        v1::ListAttemptsResponse* response) override {
    return serve(state_, context, "lockstep.v1.RunService/ListAttempts", *request,
                 [=, this](const Call&) {
                   const RunPtr record = engine_.find(request->name());
                   for (const Attempt& attempt : record->attempts)
                     *response->add_attempts() = to_proto(attempt, record->run.id);
                 });
  }

  Reactor* ListEvents(Context* context, const v1::ListEventsRequest* request,
                      v1::ListEventsResponse* response) override {
    return serve(state_, context, "lockstep.v1.RunService/ListEvents", *request,
                 [=, this](const Call&) { list_events(*request, response); });
  }

  grpc::ServerWriteReactor<v1::RunEvent>* WatchRuns(Context* context,
                                                    const v1::WatchRunsRequest* request) override {
    return serve_stream<v1::RunEvent>(
        state_, context, "lockstep.v1.RunService/WatchRuns", *request,
        [=, this](const Principal&) { return make_event_source(state_, *request); });
  }

  grpc::ServerWriteReactor<v1::LogChunk>* ReadLogs(Context* context,
                                                   const v1::ReadLogsRequest* request) override {
    return serve_stream<v1::LogChunk>(
        state_, context, "lockstep.v1.RunService/ReadLogs", *request,
        [=, this](const Principal&) { return make_log_source(state_, *request); });
  }

  grpc::ServerWriteReactor<v1::MetricsChunk>* ReadMetrics(
      Context* context, const v1::ReadMetricsRequest* request) override {
    return serve_stream<v1::MetricsChunk>(
        state_, context, "lockstep.v1.RunService/ReadMetrics", *request,
        [=, this](const Principal&) { return make_metrics_source(state_, *request); });
  }

 private:
  static void set(v1::Run* response, const RunPtr& record) {
    *response = to_proto(*record, Texts::kWithout);
  }

  void checkpoint(const Call& call, const v1::CheckpointRunRequest& request,
                  v1::CheckpointRunResponse* response) {
    const std::int64_t before = engine_.find(request.name())->run.checkpoint_step;
    const RunPtr record = engine_.checkpoint(request.name(), request.request_id(), call->caller());
    *response->mutable_run() = to_proto(*record, Texts::kWithout);
    if (!request.wait()) return;
    WaitCall::begin(state_, call, record->run.id, [=](const RunPtr& now, bool last) {
      if (!checkpoint_is_there(now->run, before)) {
        if (!last) return false;
        throw EngineError(ErrorCode::kUnavailable, "NOT_YET",
                          "the checkpoint was asked for and is not whole yet; ask again");
      }
      *response->mutable_run() = to_proto(*now, Texts::kWithout);
      v1::Checkpoint* made = response->mutable_checkpoint();
      made->set_name("runs/" + now->run.id + "/checkpoints/" +
                     std::to_string(now->run.checkpoint_step));
      made->set_step(now->run.checkpoint_step);
      made->set_path(now->run.latest_checkpoint);
      made->set_verified(!now->run.latest_checkpoint.empty());
      return true;
    });
  }

  void list_events(const v1::ListEventsRequest& request, v1::ListEventsResponse* response) {
    const std::string run =
        request.name().empty() ? std::string() : engine_.find(request.name())->run.id;
    if (request.page_size() < 0) throw invalid_field("page_size", "expected 0 (100) to 1000");
    const int limit = request.page_size() == 0 ? 100 : std::min(request.page_size(), 1000);
    std::size_t bytes = 0;
    for (const Event& event : engine_.events(run, request.after_sequence(), limit)) {
      const v1::RunEvent message = to_proto(event);
      bytes += message.ByteSizeLong() + 8;
      if (bytes > kMaxPageBytes && response->events_size() > 0) return;
      *response->add_events() = message;
    }
  }

  ServerState& state_;
  Engine& engine_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_run_service(ServerState& state) {
  return std::make_unique<RunService>(state);
}

}  // namespace lockstep::coordinator
