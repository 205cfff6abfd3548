#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "runtime/config/dump_config.h"
#include "runtime/config/load_config.h"
#include "runtime/health/findings.h"

namespace lockstep::runtime {

Advice lower_learning_rate(const Config& config, double factor, const std::string& why) {
  return {set_number("optimizer.learning_rate", config.optimizer.learning_rate / factor), why};
}

// A twentieth of the schedule, at least 10 steps, at most half of what is not its decay.
void add_warmup(const Config& config, const std::string& why, std::vector<Advice>& advice) {
  const ScheduleConfig& schedule = config.schedule;
  if (schedule.warmup_steps > 0) return;
  const std::int64_t total = schedule.total_steps > 0 ? schedule.total_steps : config.train.steps;
  const std::int64_t most = (total - schedule.decay_steps) / 2;
  const std::int64_t steps = std::min(most, std::max<std::int64_t>(10, total / 20));
  if (steps > 0) advice.push_back({fmt::format("schedule.warmup_steps={}", steps), why});
}

// Keys of a loss scale that bf16 does not have would be refused.
void add_bf16(const Config& config, const std::string& why, std::vector<Advice>& advice) {
  const LossScaleConfig& scale = config.precision.loss_scale;
  const LossScaleConfig plain;
  const bool untouched =
      scale.mode == LossScaleMode::kDynamic && scale.initial == plain.initial &&
      scale.growth_factor == plain.growth_factor && scale.backoff_factor == plain.backoff_factor &&
      scale.growth_interval == plain.growth_interval && scale.hysteresis == plain.hysteresis &&
      scale.hysteresis_mode == plain.hysteresis_mode && scale.minimum == plain.minimum &&
      scale.overflow_patience == plain.overflow_patience;
  if (untouched) advice.push_back({"precision.compute=bf16", why});
}

std::vector<Advice> applicable(const Config& config, const std::vector<Advice>& advice) {
  const std::string yaml = to_yaml(config);
  std::vector<Advice> kept;
  for (const Advice& each : advice) {
    if (each.set.empty()) {
      kept.push_back(each);
      continue;
    }
    try {
      const Config changed = parse_config(yaml, "config.yaml", {each.set});
      if (!diff_configs(config, changed).empty()) kept.push_back(each);
    } catch (const core::Error&) {
      continue;  // another setting of this run forbids it
    }
  }
  return kept;
}

}  // namespace lockstep::runtime
