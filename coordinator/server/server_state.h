#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "coordinator/engine/engine.h"
#include "coordinator/model/coordinator_config.h"
#include "coordinator/server/call_gate.h"
#include "coordinator/server/event_ring.h"
#include "coordinator/server/long_calls.h"
#include "coordinator/server/page_token.h"
#include "coordinator/server/server_log.h"
#include "coordinator/server/server_metrics.h"
#include "coordinator/server/work_lanes.h"

namespace lockstep::coordinator {

// What the services share. Owned by the server; members in the order in which they need each other.
struct ServerState {
  ServerState(Engine& the_engine, const CoordinatorConfig& the_config, ServerLog& the_log,
              ServerMetrics& the_metrics, std::string page_token_key,
              std::function<void()> on_shutdown_request);

  Engine& engine;
  const CoordinatorConfig& config;
  ServerLog& log;
  ServerMetrics& metrics;
  const std::function<void()> request_shutdown;  // returns at once
  const std::int64_t start_time_ns;              // unix
  const RetryPolicy retry_defaults;
  PageTokens page_tokens;
  EventRing events;
  WorkLanes lanes;
  CallGate gate;
  LongCalls long_calls;
};

}  // namespace lockstep::coordinator
