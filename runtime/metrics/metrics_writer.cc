#include "runtime/metrics/metrics_writer.h"

#include <fmt/format.h>

#include "core/json_text.h"

namespace lockstep::runtime {

namespace {

using core::json_number;
using core::json_string;

std::string overflow_fields(const StepMetrics& m) {
  const auto name = [](const std::string& text) {
    return text.empty() ? std::string("null") : json_string(text);
  };
  return fmt::format(R"(,"overflow_rank":{},"overflow_bucket":{},"overflow_tensor":{})",
                     m.overflow_rank ? std::to_string(*m.overflow_rank) : "null",
                     name(m.overflow_bucket), name(m.overflow_tensor));
}

}  // namespace

MetricsWriter::MetricsWriter(const std::string& path, std::uint64_t keep_bytes) {
  file_.open(path, keep_bytes);
}

std::string MetricsWriter::step(const StepMetrics& m) {
  const double rate = m.step_seconds > 0.0 ? static_cast<double>(m.tokens) / m.step_seconds : 0.0;
  return event(
      "step",
      fmt::format(R"("step":{},"applied":{},"applied_steps":{},"loss":{},"grad_norm":{},)"
                  R"("clip_coefficient":{},"learning_rate":{},"loss_scale":{},"overflow":{},)"
                  R"("diverged":{},"tokens":{},"tokens_per_second":{},"step_seconds":{}{})",
                  m.step, m.applied, m.applied_steps, json_number(m.loss), json_number(m.grad_norm),
                  m.clip_coefficient ? json_number(*m.clip_coefficient) : "null",
                  json_number(m.learning_rate), json_number(m.loss_scale), m.overflow, m.diverged,
                  m.tokens, json_number(rate), json_number(m.step_seconds),
                  m.overflow ? overflow_fields(m) : ""));
}

std::string MetricsWriter::validation(std::int64_t step, double loss,
                                      std::optional<double> ema_loss) {
  std::string fields = fmt::format(R"("step":{},"loss":{})", step, json_number(loss));
  if (ema_loss) fields += fmt::format(R"(,"ema_loss":{})", json_number(*ema_loss));
  return event("validation", fields);
}

std::string MetricsWriter::event(const std::string& name, const std::string& fields) {
  std::string line =
      fmt::format("{{\"event\":{}{}{}}}", json_string(name), fields.empty() ? "" : ",", fields);
  file_.write(line + "\n");
  return line;
}

}  // namespace lockstep::runtime
