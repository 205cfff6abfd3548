#include "coordinator/model/run_json.h"

#include <cmath>
#include <limits>

using nlohmann::json;

namespace nlohmann {

template <typename T>
struct adl_serializer<std::optional<T>> {
  static void to_json(json& out, const std::optional<T>& value) {
    if (value) {
      out = *value;
    } else {
      out = nullptr;
    }
  }
  static void from_json(const json& in, std::optional<T>& value) {
    if (in.is_null()) {
      value.reset();
    } else {
      value = in.get<T>();
    }
  }
};

}  // namespace nlohmann

namespace lockstep::coordinator {

static void to_json(json& out, RunState value) {
  out = to_string(value);
}
static void from_json(const json& in, RunState& value) {
  value = parse_run_state(in.get_ref<const std::string&>());
}
static void to_json(json& out, StopIntent value) {
  out = to_string(value);
}
static void from_json(const json& in, StopIntent& value) {
  value = parse_stop_intent(in.get_ref<const std::string&>());
}
static void to_json(json& out, AttemptState value) {
  out = to_string(value);
}
static void from_json(const json& in, AttemptState& value) {
  value = parse_attempt_state(in.get_ref<const std::string&>());
}
static void to_json(json& out, FailureCategory value) {
  out = to_string(value);
}
static void from_json(const json& in, FailureCategory& value) {
  value = parse_failure_category(in.get_ref<const std::string&>());
}

void to_json(json& out, const BootTime& value) {
  out = value.boot.empty() ? json() : json{{"boot", value.boot}, {"ns", value.ns}};
}
void from_json(const json& in, BootTime& value) {
  value = in.is_null() ? BootTime{} : BootTime{in.at("boot"), in.at("ns")};
}

namespace {

// JSON has no infinities and no NaN: null, which is read as NaN.
json number(double value) {
  return std::isfinite(value) ? json(value) : json(nullptr);
}

double number_at(const json& in, const char* key) {
  const auto found = in.find(key);
  if (found == in.end()) return 0.0;
  return found->is_null() ? std::numeric_limits<double>::quiet_NaN() : found->get<double>();
}

template <typename T>
void read(const json& in, const char* key, T& value) {
  if (const auto found = in.find(key); found != in.end()) found->get_to(value);
}

// One list of members for both directions.
class Writer {
 public:
  explicit Writer(json& out) : out_(out) { out_ = json::object(); }
  template <typename T>
  Writer& operator()(const char* key, const T& value) {
    out_[key] = value;
    return *this;
  }

 private:
  json& out_;
};

class Reader {
 public:
  explicit Reader(const json& in) : in_(in) {}
  template <typename T>
  Reader& operator()(const char* key, T& value) {
    read(in_, key, value);
    return *this;
  }

 private:
  const json& in_;
};

template <typename Visit, typename Value>
void visit_resources(Visit visit, Value& v) {
  visit("ranks", v.ranks)("ranks_per_host", v.ranks_per_host)("hosts", v.hosts);
}

template <typename Visit, typename Value>
void visit_retry(Visit visit, Value& v) {
  visit("max_restarts", v.max_restarts)("base_delay_ns", v.base_delay_ns);
  visit("max_delay_ns", v.max_delay_ns)("on_exit_codes", v.on_exit_codes);
}

template <typename Visit, typename Value>
void visit_placement(Visit visit, Value& v) {
  visit("host", v.host)("slots", v.slots);
}

template <typename Visit, typename Value>
void visit_rank(Visit visit, Value& v) {
  visit("rank", v.rank)("host", v.host)("pid", v.pid)("code", v.code)("signal", v.signal);
  visit("reason", v.reason)("message", v.message)("end_time_ns", v.end_time_ns);
}

template <typename Visit, typename Value>
void visit_exit(Visit visit, Value& v) {
  visit("category", v.category)("code", v.code)("signal", v.signal);
  visit("failing_rank", v.failing_rank)("host", v.host)("message", v.message);
  visit("launcher_code", v.launcher_code)("retryable", v.retryable)("ranks", v.ranks);
  visit("step", v.step);
}

template <typename Visit, typename Value>
void visit_order(Visit visit, Value& v) {
  visit("force", v.force)("grace_ns", v.grace_ns)("actor", v.actor)("reason", v.reason);
}

template <typename Visit, typename Value>
void visit_attempt(Visit visit, Value& v) {
  visit("number", v.number)("fence", v.fence)("state", v.state)("placements", v.placements);
  visit("slots_leased", v.slots_leased)("resume", v.resume)("resumed_from", v.resumed_from);
  visit("agent_token_hash", v.agent_token_hash)("create_time_ns", v.create_time_ns);
  visit("start_time_ns", v.start_time_ns)("end_time_ns", v.end_time_ns);
  visit("created_at", v.created_at)("started_at", v.started_at)("ended_at", v.ended_at);
  visit("checkpoint_step", v.checkpoint_step)("exit", v.exit)("stuck", v.stuck);
}

template <typename Visit, typename Value>
void visit_description(Visit visit, Value& v) {
  visit("id", v.id)("owner", v.owner)("display_name", v.display_name)("labels", v.labels);
  visit("notes", v.notes)("priority", v.priority)("hold", v.hold)("overrides", v.overrides);
  visit("config_sha256", v.config_sha256)("output", v.output)("device_kind", v.device_kind)(
      "resources", v.resources);
  visit("after", v.after)("after_pending", v.after_pending)("time_limit_ns", v.time_limit_ns);
  visit("retry_policy", v.retry_policy)("parent_run", v.parent_run);
  visit("environment", v.environment);
}

template <typename Visit, typename Value>
void visit_state(Visit visit, Value& v) {
  visit("state", v.state)("state_reason", v.state_reason)("state_message", v.state_message);
  visit("state_time_ns", v.state_time_ns)("stop_intent", v.stop_intent);
  visit("stop_order", v.stop_order)("failure", v.failure)("suspect", v.suspect);
  visit("cleanup_state", v.cleanup_state)("current_attempt", v.current_attempt);
  visit("restart_count", v.restart_count)("budget_used", v.budget_used);
  visit("fresh_checkpoints", v.fresh_checkpoints)("hang_count", v.hang_count);
  visit("launch_failures", v.launch_failures)("progress", v.progress);
  visit("checkpoint_control_id", v.checkpoint_control_id);
  visit("checkpoint_wanted", v.checkpoint_wanted)("checkpoint_step", v.checkpoint_step);
  visit("checkpoint_answer_id", v.checkpoint_answer_id);
  visit("latest_checkpoint", v.latest_checkpoint)("result", v.result);
  visit("resume_from", v.resume_from);
}

template <typename Visit, typename Value>
void visit_times(Visit visit, Value& v) {
  visit("create_time_ns", v.create_time_ns)("queue_time_ns", v.queue_time_ns);
  visit("start_time_ns", v.start_time_ns)("end_time_ns", v.end_time_ns);
  visit("update_time_ns", v.update_time_ns)("backoff_until_ns", v.backoff_until_ns);
  visit("queued_at", v.queued_at)("backoff_until", v.backoff_until)("ended_at", v.ended_at);
  visit("event_sequence", v.event_sequence)("run_sequence", v.run_sequence);
}

}  // namespace

static void to_json(json& out, const RankExit& value) {
  visit_rank(Writer(out), value);
}
static void from_json(const json& in, RankExit& value) {
  visit_rank(Reader(in), value);
}
static void to_json(json& out, const StopOrder& value) {
  visit_order(Writer(out), value);
}
static void from_json(const json& in, StopOrder& value) {
  visit_order(Reader(in), value);
}

void to_json(json& out, const Resources& value) {
  visit_resources(Writer(out), value);
}
void from_json(const json& in, Resources& value) {
  visit_resources(Reader(in), value);
}
void to_json(json& out, const RetryPolicy& value) {
  visit_retry(Writer(out), value);
}
void from_json(const json& in, RetryPolicy& value) {
  visit_retry(Reader(in), value);
}
void to_json(json& out, const Placement& value) {
  visit_placement(Writer(out), value);
}
void from_json(const json& in, Placement& value) {
  visit_placement(Reader(in), value);
}
void to_json(json& out, const ExitInfo& value) {
  visit_exit(Writer(out), value);
}
void from_json(const json& in, ExitInfo& value) {
  visit_exit(Reader(in), value);
}
void to_json(json& out, const Attempt& value) {
  visit_attempt(Writer(out), value);
}
void from_json(const json& in, Attempt& value) {
  visit_attempt(Reader(in), value);
}

void to_json(json& out, const Progress& value) {
  out = {{"step", value.step},
         {"total_steps", value.total_steps},
         {"loss", number(value.loss)},
         {"tokens_per_second", number(value.tokens_per_second)},
         {"step_seconds", number(value.step_seconds)},
         {"eta_time_ns", value.eta_time_ns},
         {"heartbeat_time_ns", value.heartbeat_time_ns}};
}

void from_json(const json& in, Progress& value) {
  read(in, "step", value.step);
  read(in, "total_steps", value.total_steps);
  value.loss = number_at(in, "loss");
  value.tokens_per_second = number_at(in, "tokens_per_second");
  value.step_seconds = number_at(in, "step_seconds");
  read(in, "eta_time_ns", value.eta_time_ns);
  read(in, "heartbeat_time_ns", value.heartbeat_time_ns);
}

void to_json(json& out, const Run& value) {
  Writer writer(out);
  visit_description(writer, value);
  visit_state(writer, value);
  visit_times(writer, value);
}

void from_json(const json& in, Run& value) {
  const Reader reader(in);
  visit_description(reader, value);
  visit_state(reader, value);
  visit_times(reader, value);
}

void to_json(json& out, const RunRecord& value) {
  out = {{"v", 1}, {"run", value.run}, {"attempts", value.attempts}};
}

void from_json(const json& in, RunRecord& value) {
  read(in, "run", value.run);
  read(in, "attempts", value.attempts);
}

std::string canonical_text(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace lockstep::coordinator
