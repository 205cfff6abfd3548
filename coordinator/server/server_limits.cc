#include "coordinator/server/server_limits.h"

#include "coordinator/server/conversions.h"
#include "coordinator/server/filter_expression.h"
#include "coordinator/server/run_list.h"

namespace lockstep::coordinator {

std::map<std::string, std::int64_t> server_limits(const LimitConfig& config) {
  return {{"request_bytes", kMaxRequestBytes},
          {"response_bytes", kMaxResponseBytes},
          {"calls_per_connection", kMaxCallsPerConnection},
          {"streams_per_caller", config.streams_per_caller},
          {"queued_runs", config.queued_runs},
          {"queued_runs_per_caller", config.queued_runs_per_caller},
          {"log_bytes_per_run", config.log_bytes_per_run},
          {"page_size", kMaxPageSize},
          {"config_bytes", static_cast<std::int64_t>(kMaxConfigBytes)},
          {"config_depth", kMaxConfigDepth},
          {"filter_bytes", static_cast<std::int64_t>(kMaxFilterBytes)},
          {"labels", kMaxLabels},
          {"variables", kMaxVariables},
          {"priority_submit", config.priority_of_submit},
          {"priority_operate", config.priority_of_operate},
          {"overrides", kMaxOverrides},
          {"after", kMaxAfter}};
}

}  // namespace lockstep::coordinator
