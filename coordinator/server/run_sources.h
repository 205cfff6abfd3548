#pragma once

#include <memory>

#include "coordinator/server/pull_stream.h"
#include "lockstep/v1/run_service.pb.h"

// What the streams of RunService send. Each checks the request at once (EngineError).
namespace lockstep::coordinator {

std::unique_ptr<MessageSource<v1::RunEvent>> make_event_source(ServerState& state,
                                                               const v1::WatchRunsRequest& request);
std::unique_ptr<MessageSource<v1::LogChunk>> make_log_source(ServerState& state,
                                                             const v1::ReadLogsRequest& request);
std::unique_ptr<MessageSource<v1::MetricsChunk>> make_metrics_source(
    ServerState& state, const v1::ReadMetricsRequest& request);

// Between looks at a file that may have grown.
inline constexpr std::int64_t kFilePollNs = 200'000'000;

}  // namespace lockstep::coordinator
