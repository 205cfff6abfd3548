#pragma once

#include <functional>
#include <optional>
#include <string>

#include "coordinator/client/client.h"

// Streams that go on where they were when the coordinator is away for a while.
namespace lockstep::coordinator {

// One sentence for people, about the stream and not of it.
using Talk = std::function<void(const std::string&)>;

// Every chunk once and in order, over as many streams as it takes. With request.follow until the
// run has ended, else until everything that is there has been read. Returns the run as the last
// chunk showed it, if one did. Once the coordinator has answered, following waits out an absence of
// up to ten minutes, however it went away.
std::optional<v1::Run> read_all_logs(Client& client, v1::ReadLogsRequest request,
                                     const std::function<void(const v1::LogChunk&)>& show,
                                     const Talk& talk);

// The same for metrics. When the file was cut back, which a resume does, `show` gets the chunk that
// says so.
std::optional<v1::Run> read_all_metrics(Client& client, v1::ReadMetricsRequest request,
                                        const std::function<void(const v1::MetricsChunk&)>& show,
                                        const Talk& talk);

// Waits until the condition holds or the run has ended, over as many calls as it takes; zero
// timeout: for ever. With `reached` false and a run that has not ended, the time was over.
v1::WaitRunResponse wait_for_run(Client& client, const v1::WaitRunRequest& request,
                                 std::chrono::milliseconds timeout);

// Asks for a checkpoint and waits until one is whole, or nothing comes of it (then the answer has
// none).
v1::CheckpointRunResponse wait_for_checkpoint(Client& client, v1::CheckpointRunRequest request);

bool has_ended(const v1::Run& run);
// 0, 1 or 3 of an ended run.
JobExit verdict(const v1::Run& run);

}  // namespace lockstep::coordinator
