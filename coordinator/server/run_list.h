#pragma once

#include <string>
#include <vector>

#include "coordinator/model/run.h"
#include "coordinator/server/page_token.h"
#include "lockstep/v1/run_service.pb.h"

namespace lockstep::coordinator {

inline constexpr int kDefaultPageSize = 50;
inline constexpr int kMaxPageSize = 500;
// A page ends early rather than beyond this; messages may be a little larger than what is in them.
inline constexpr std::size_t kMaxPageBytes = std::size_t{3} << 20;

// The page of `runs` that ListRuns asks for. Throws EngineError(INVALID_ARGUMENT).
void list_runs(std::vector<RunPtr> runs, const v1::ListRunsRequest& request,
               const std::string& caller, const PageTokens& tokens, v1::ListRunsResponse& response);

}  // namespace lockstep::coordinator
