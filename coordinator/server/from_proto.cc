#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "coordinator/engine/engine_error.h"
#include "coordinator/server/conversions.h"
#include "coordinator/server/yaml_limits.h"

namespace lockstep::coordinator {
namespace {

constexpr std::int64_t kMaxDurationSeconds = std::int64_t{10} * 366 * 86400;

// Collects what is wrong with a request, so that its author sees all of it at once.
class Violations {
 public:
  void add(const std::string& field, const std::string& description) {
    error_.violates(field, description);
    ++count_;
    if (count_ <= 3) text_ += (count_ > 1 ? "; " : "") + field + ": " + description;
  }
  void at_most(const std::string& field, std::size_t found, std::size_t most, const char* unit) {
    if (found > most)
      add(field, fmt::format("expected at most {} {}, found {}", most, unit, found));
  }
  // Text of one line for people: UTF-8 is given (protobuf refuses other bytes), no control bytes.
  void one_line(const std::string& field, const std::string& text, std::size_t most) {
    at_most(field, text.size(), most, "bytes");
    const auto is_control = [](char c) {
      return static_cast<unsigned char>(c) < 0x20 || c == '\x7f';
    };
    if (std::any_of(text.begin(), text.end(), is_control)) {
      add(field, "expected no control characters");
    }
  }
  void throw_if_any() const {
    if (count_ == 0) return;
    EngineError error(ErrorCode::kInvalidArgument, "INVALID_FIELD", text_);
    for (const FieldViolation& violation : error_.violations())
      error.violates(violation.field, violation.description);
    throw error;
  }

 private:
  EngineError error_{ErrorCode::kInvalidArgument, "INVALID_FIELD", ""};
  std::string text_;
  int count_ = 0;
};

std::int64_t duration_ns(const google::protobuf::Duration& duration, const std::string& field,
                         Violations& violations) {
  if (duration.seconds() < 0 || duration.nanos() < 0 || duration.nanos() >= kSecond ||
      duration.seconds() > kMaxDurationSeconds) {
    violations.add(field, fmt::format("expected 0 s to {} s", kMaxDurationSeconds));
    return 0;
  }
  return duration.seconds() * kSecond + duration.nanos();
}

void check_labels(const google::protobuf::Map<std::string, std::string>& labels,
                  Violations& violations) {
  violations.at_most("run.labels", static_cast<std::size_t>(labels.size()), kMaxLabels, "labels");
  for (const auto& [key, value] : labels) {
    if (key.empty()) violations.add("run.labels", "expected a key that is not empty");
    violations.one_line("run.labels", key, kMaxLabelKeyBytes);
    violations.one_line(fmt::format("run.labels[\"{}\"]", key.substr(0, kMaxLabelKeyBytes)), value,
                        kMaxLabelValueBytes);
  }
}

void check_environment(const google::protobuf::Map<std::string, std::string>& environment,
                       Violations& violations) {
  violations.at_most("run.environment", static_cast<std::size_t>(environment.size()), kMaxVariables,
                     "variables");
  for (const auto& [name, value] : environment) {
    violations.one_line("run.environment", name, kMaxLabelKeyBytes);
    violations.at_most(fmt::format("run.environment[\"{}\"]", name.substr(0, kMaxLabelKeyBytes)),
                       value.size(), kMaxVariableBytes, "bytes");
  }
}

void check_priority(int priority, Violations& violations) {
  if (priority < -kMaxPriority || priority > kMaxPriority) {
    violations.add("run.priority", fmt::format("expected {} to {}, found {}", -kMaxPriority,
                                               kMaxPriority, priority));
  }
}

void check_overrides(const google::protobuf::RepeatedPtrField<std::string>& overrides,
                     const std::string& field, Violations& violations) {
  violations.at_most(field, static_cast<std::size_t>(overrides.size()), kMaxOverrides, "entries");
  for (int i = 0; i < overrides.size(); ++i) {
    const std::string name = fmt::format("{}[{}]", field, i);
    violations.at_most(name, overrides[i].size(), kMaxOverrideBytes, "bytes");
    const std::size_t equals = overrides[i].find('=');
    if (equals == std::string::npos || equals == 0) {
      violations.add(name, "expected path.to.key=value");
    } else if (const auto problem = yaml_over_limit(
                   std::string_view(overrides[i]).substr(equals + 1), kMaxConfigDepth)) {
      violations.add(name, *problem);
    }
  }
}

void check_config(const v1::CreateRunRequest& request, Violations& violations) {
  const std::string& yaml = request.run().config_yaml();
  violations.at_most("run.config_yaml", yaml.size(), kMaxConfigBytes, "bytes");
  if (yaml.size() <= kMaxConfigBytes) {
    const std::string source =
        request.config_source().empty() ? "config.yaml" : request.config_source();
    if (const auto problem = yaml_over_limit(yaml, kMaxConfigDepth)) {
      violations.add("run.config_yaml", source + ":" + *problem);
    }
  }
  check_overrides(request.run().overrides(), "run.overrides", violations);
}

Resources resources_of(const v1::Resources& message, Violations& violations) {
  Resources resources;
  if (message.ranks() < 0 || message.ranks() > 65536) {
    violations.add("run.resources.ranks",
                   fmt::format("expected 1 to 65536, found {}", message.ranks()));
  }
  if (message.ranks_per_host() < 0) {
    violations.add("run.resources.ranks_per_host",
                   fmt::format("expected 0 or more, found {}", message.ranks_per_host()));
  }
  violations.at_most("run.resources.hosts", static_cast<std::size_t>(message.hosts_size()), 1024,
                     "hosts");
  resources.ranks = message.ranks() == 0 ? 1 : message.ranks();
  resources.ranks_per_host = message.ranks_per_host();
  resources.hosts.assign(message.hosts().begin(), message.hosts().end());
  return resources;
}

RetryPolicy retry_policy_of(const v1::Run& run, const RetryPolicy& defaults,
                            Violations& violations) {
  RetryPolicy policy = defaults;
  if (!run.has_retry_policy()) return policy;
  const v1::RetryPolicy& message = run.retry_policy();
  if (message.has_max_restarts()) policy.max_restarts = std::max(0, message.max_restarts());
  if (message.max_restarts() < -1 || message.max_restarts() > 1000) {
    violations.add("run.retry_policy.max_restarts",
                   fmt::format("expected 0 (none) to 1000, found {}", message.max_restarts()));
  }
  if (message.has_base_delay()) {
    policy.base_delay_ns =
        duration_ns(message.base_delay(), "run.retry_policy.base_delay", violations);
  }
  if (message.has_max_delay()) {
    policy.max_delay_ns =
        duration_ns(message.max_delay(), "run.retry_policy.max_delay", violations);
  }
  violations.at_most("run.retry_policy.on_exit_codes",
                     static_cast<std::size_t>(message.on_exit_codes_size()), 256, "codes");
  policy.on_exit_codes.assign(message.on_exit_codes().begin(), message.on_exit_codes().end());
  return policy;
}

template <typename Request>
std::string name_of(const Request& request, Violations& violations) {
  if (request.name().empty()) violations.add("name", "expected runs/ID");
  violations.one_line("name", request.name(), 128);
  return request.name();
}

// Sets the member of `update` that a path of the mask names.
void set_masked(const std::string& path, const v1::Run& run, UpdateRequest& update,
                Violations& violations) {
  if (path == "display_name") {
    violations.one_line("run.display_name", run.display_name(), kMaxDisplayNameBytes);
    update.display_name = run.display_name();
  } else if (path == "labels") {
    check_labels(run.labels(), violations);
    update.labels = std::map<std::string, std::string>(run.labels().begin(), run.labels().end());
  } else if (path == "notes") {
    violations.at_most("run.notes", run.notes().size(), kMaxNotesBytes, "bytes");
    update.notes = run.notes();
  } else if (path == "priority") {
    check_priority(run.priority(), violations);
    update.priority = run.priority();
  } else if (path == "hold") {
    update.hold = run.hold();
  } else if (path == "time_limit") {
    update.time_limit_ns = duration_ns(run.time_limit(), "run.time_limit", violations);
  } else {
    violations.add("update_mask", fmt::format("'{}' cannot be changed; these can: display_name, "
                                              "labels, notes, priority, hold, time_limit",
                                              path.substr(0, 128)));
  }
}

}  // namespace

std::int64_t timestamp_ns(const google::protobuf::Timestamp& time) {
  const std::int64_t most = std::numeric_limits<std::int64_t>::max() / kSecond - 1;
  return std::clamp<std::int64_t>(time.seconds(), 0, most) * kSecond +
         std::clamp<std::int32_t>(time.nanos(), 0, 999'999'999);
}

CreateRequest from_proto(const v1::CreateRunRequest& message, const RetryPolicy& retry_defaults) {
  Violations violations;
  const v1::Run& run = message.run();
  CreateRequest request;
  violations.one_line("run.display_name", run.display_name(), kMaxDisplayNameBytes);
  check_labels(run.labels(), violations);
  violations.at_most("run.notes", run.notes().size(), kMaxNotesBytes, "bytes");
  check_priority(run.priority(), violations);
  check_environment(run.environment(), violations);
  violations.one_line("config_source", message.config_source(), 4096);
  check_config(message, violations);
  violations.at_most("run.after", static_cast<std::size_t>(run.after_size()), kMaxAfter, "runs");
  request.resources = resources_of(run.resources(), violations);
  request.retry_policy = retry_policy_of(run, retry_defaults, violations);
  request.time_limit_ns = duration_ns(run.time_limit(), "run.time_limit", violations);
  violations.throw_if_any();
  request.display_name = run.display_name();
  request.labels.insert(run.labels().begin(), run.labels().end());
  request.notes = run.notes();
  request.priority = run.priority();
  request.hold = run.hold();
  request.environment.insert(run.environment().begin(), run.environment().end());
  request.config_yaml = run.config_yaml();
  if (!message.config_source().empty()) request.config_source = message.config_source();
  request.overrides.assign(run.overrides().begin(), run.overrides().end());
  request.after.assign(run.after().begin(), run.after().end());
  request.validate_only = message.validate_only();
  request.request_id = message.request_id();
  return request;
}

UpdateRequest from_proto(const v1::UpdateRunRequest& message) {
  Violations violations;
  UpdateRequest request;
  request.run = name_of(message.run(), violations);
  request.etag = message.run().etag();
  request.request_id = message.request_id();
  if (message.update_mask().paths().empty()) {
    violations.add("update_mask", "expected the fields to change");
  }
  for (const std::string& path : message.update_mask().paths())
    set_masked(path, message.run(), request, violations);
  violations.throw_if_any();
  return request;
}

CancelRequest from_proto(const v1::CancelRunRequest& message) {
  Violations violations;
  CancelRequest request;
  request.run = name_of(message, violations);
  violations.one_line("reason", message.reason(), kMaxReasonBytes);
  request.reason = message.reason();
  request.force = message.force();
  if (message.has_grace()) request.grace_ns = duration_ns(message.grace(), "grace", violations);
  request.request_id = message.request_id();
  violations.throw_if_any();
  return request;
}

PauseRequest from_proto(const v1::PauseRunRequest& message) {
  Violations violations;
  PauseRequest request;
  request.run = name_of(message, violations);
  violations.one_line("reason", message.reason(), kMaxReasonBytes);
  request.reason = message.reason();
  request.request_id = message.request_id();
  violations.throw_if_any();
  return request;
}

RetryRequest from_proto(const v1::RetryRunRequest& message) {
  Violations violations;
  RetryRequest request;
  request.run = name_of(message, violations);
  check_overrides(message.overrides(), "overrides", violations);
  request.overrides.assign(message.overrides().begin(), message.overrides().end());
  request.from_start = message.from_start();
  request.request_id = message.request_id();
  violations.throw_if_any();
  return request;
}

DeleteRequest from_proto(const v1::DeleteRunRequest& message) {
  Violations violations;
  DeleteRequest request;
  request.run = name_of(message, violations);
  request.archive = message.archive();
  request.request_id = message.request_id();
  violations.throw_if_any();
  return request;
}

CreateTokenRequest from_proto(const v1::CreateTokenRequest& message) {
  Violations violations;
  CreateTokenRequest request;
  request.name = message.name();
  request.scopes.assign(message.scopes().begin(), message.scopes().end());
  violations.at_most("scopes", request.scopes.size(), 4, "scopes");
  request.lifetime_ns = duration_ns(message.lifetime(), "lifetime", violations);
  request.request_id = message.request_id();
  violations.throw_if_any();
  return request;
}

AttemptRef from_proto(const v1::AttemptRef& message) {
  return {message.run(), message.attempt(), message.fence()};
}

AgentRegistration from_proto(const v1::RegisterRequest& message) {
  AgentRegistration registration;
  registration.attempt = from_proto(message.attempt());
  registration.world_size = message.world_size();
  registration.host = message.host();
  registration.pid = message.pid();
  registration.total_steps = message.total_steps();
  registration.resumed_step = message.resumed_step();
  return registration;
}

Beat from_proto(const v1::HeartbeatRequest& message) {
  Beat beat;
  beat.attempt = from_proto(message.attempt());
  beat.step = message.step();
  beat.activity = message.activity();
  beat.collective_sequence = message.collective_sequence();
  beat.loss = message.loss();
  beat.tokens_per_second = message.tokens_per_second();
  beat.step_seconds = message.step_seconds();
  beat.checkpoint_step = message.checkpoint_step();
  beat.acked_control_id = message.acked_control_id();
  beat.failed_control_id = message.failed_control_id();
  beat.phase = message.phase();
  return beat;
}

}  // namespace lockstep::coordinator
