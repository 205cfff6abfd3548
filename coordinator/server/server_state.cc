#include "coordinator/server/server_state.h"

#include <chrono>
#include <utility>

namespace lockstep::coordinator {
namespace {

std::int64_t unix_now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

ServerState::ServerState(Engine& the_engine, const CoordinatorConfig& the_config,
                         ServerLog& the_log, ServerMetrics& the_metrics, std::string page_token_key,
                         std::function<void()> on_shutdown_request)
    : engine(the_engine),
      config(the_config),
      log(the_log),
      metrics(the_metrics),
      request_shutdown(std::move(on_shutdown_request)),
      start_time_ns(unix_now_ns()),
      retry_defaults(the_config.retry),
      page_tokens(std::move(page_token_key)),
      events(the_engine),
      gate(the_engine, the_config.limits),
      long_calls(the_engine, gate, the_config.limits.streams_per_caller) {}

}  // namespace lockstep::coordinator
