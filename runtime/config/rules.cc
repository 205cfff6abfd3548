#include "runtime/config/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "models/model_config.h"
#include "models/parameter_table.h"
#include "runtime/config/tensor_rules.h"

namespace lockstep::runtime {
namespace {

using models::RopeScalingKind;
using ops::OptimizerKind;

// A key that does something only under other keys.
struct Effect {
  std::string path;
  std::string condition;  // in words
  bool (*holds)(const Config& config);
};

bool is_dynamic(const Config& config) {
  return config.precision.loss_scale.mode == LossScaleMode::kDynamic;
}

bool ends_at_minimum(const Config& config) {
  const ScheduleKind name = config.schedule.name;
  return name == ScheduleKind::kCosine || name == ScheduleKind::kLinear ||
         name == ScheduleKind::kWsd;
}

bool has_momentum(const Config& config) {
  return config.optimizer.name == OptimizerKind::kSgd ||
         config.optimizer.name == OptimizerKind::kRmsProp;
}

bool is_step_schedule(const Config& config) {
  return config.schedule.name == ScheduleKind::kStep;
}
bool averages_weights(const Config& config) {
  return config.ema.decay > 0.0;
}
bool is_llama3(const Config& config) {
  return config.model.rope_scaling.kind == RopeScalingKind::kLlama3;
}
bool is_wsd_schedule(const Config& config) {
  return config.schedule.name == ScheduleKind::kWsd;
}

bool is_muon(const Config& config) {
  return config.optimizer.name == OptimizerKind::kMuon;
}

bool has_adaptive_clip(const Config& config) {
  return config.clip.mode == ClipMode::kZClip || config.clip.mode == ClipMode::kAdaGc;
}

const std::vector<Effect>& effects() {
  static const std::string dynamic = "precision.loss_scale.mode dynamic";
  static const std::string llama3 = "model.rope_scaling.type llama3";
  static const std::string scale = "precision.loss_scale.";
  static const std::vector<Effect> table = {
      {"model.rope_theta", "model.positions rope",
       [](const Config& c) { return c.model.positions == models::Positions::kRope; }},
      {"model.rope_scaling.type", "model.positions rope",
       [](const Config& c) { return c.model.rope_scaling.kind != RopeScalingKind::kNone; }},
      {"model.rope_scaling.factor", "model.rope_scaling.type linear or llama3",
       [](const Config& c) { return c.model.rope_scaling.kind != RopeScalingKind::kNone; }},
      {"model.rope_scaling.low_freq_factor", llama3, is_llama3},
      {"model.rope_scaling.high_freq_factor", llama3, is_llama3},
      {"model.rope_scaling.original_max_position_embeddings", llama3, is_llama3},
      {"model.init_resize", "model.init_from",
       [](const Config& c) { return !c.init_from.empty(); }},
      {"optimizer.betas", "optimizer.name adamw, adam or lion",
       [](const Config& c) { return !has_momentum(c); }},
      {"optimizer.eps", "optimizer.name adamw, adam or rmsprop",
       [](const Config& c) {
         return c.optimizer.name != OptimizerKind::kSgd && c.optimizer.name != OptimizerKind::kLion;
       }},
      {"optimizer.momentum", "optimizer.name sgd or rmsprop", has_momentum},
      {"model.mup_base_width", "model.parametrization mup",
       [](const Config& c) { return c.model.parametrization == models::Parametrization::kMup; }},
      {"optimizer.muon.momentum", "optimizer.name muon", is_muon},
      {"optimizer.muon.nesterov", "optimizer.name muon", is_muon},
      {"optimizer.muon.ns_steps", "optimizer.name muon", is_muon},
      {"optimizer.muon.ns_dtype", "optimizer.name muon", is_muon},
      {"optimizer.muon.adjust", "optimizer.name muon", is_muon},
      {"optimizer.muon.adamw_learning_rate", "optimizer.name muon", is_muon},
      {"optimizer.alpha", "optimizer.name rmsprop",
       [](const Config& c) { return c.optimizer.name == OptimizerKind::kRmsProp; }},
      {"schedule.total_steps", "schedule.name cosine, linear or wsd", ends_at_minimum},
      {"schedule.min_learning_rate", "schedule.name cosine, linear or wsd", ends_at_minimum},
      {"schedule.step_size", "schedule.name step", is_step_schedule},
      {"schedule.gamma", "schedule.name step", is_step_schedule},
      {"schedule.decay_steps", "schedule.name wsd", is_wsd_schedule},
      {"backend.nccl_buffers", "backend.comm nccl (or auto on GPUs)",
       [](const Config& c) {
         return c.backend.comm == CommChoice::kNccl ||
                (c.backend.comm == CommChoice::kAuto && c.backend.device != DeviceChoice::kCpu);
       }},
      {"ema.every", "ema.decay above 0", averages_weights},
      {"ema.warmup", "ema.decay above 0", averages_weights},
      {"clip.threshold", "a clip.mode other than none",
       [](const Config& c) { return c.clip.mode != ClipMode::kNone; }},
      {"clip.window_decay", "clip.mode zclip or adagc", has_adaptive_clip},
      {"clip.z_threshold", "clip.mode zclip",
       [](const Config& c) { return c.clip.mode == ClipMode::kZClip; }},
      {"clip.ratio", "clip.mode adagc",
       [](const Config& c) { return c.clip.mode == ClipMode::kAdaGc; }},
      {"clip.warmup_steps", "clip.mode zclip or adagc", has_adaptive_clip},
      {scale + "initial", "precision.loss_scale.mode dynamic or static",
       [](const Config& c) { return c.precision.loss_scale.mode != LossScaleMode::kNone; }},
      {scale + "growth_factor", dynamic, is_dynamic},
      {scale + "backoff_factor", dynamic, is_dynamic},
      {scale + "growth_interval", dynamic, is_dynamic},
      {scale + "hysteresis", dynamic, is_dynamic},
      {scale + "hysteresis_mode", dynamic, is_dynamic},
      {scale + "minimum", dynamic, is_dynamic},
      {scale + "overflow_patience", dynamic, is_dynamic},
  };
  return table;
}

class RuleChecker {
 public:
  RuleChecker(const Config& config, const Document& document, Problems& problems)
      : config_(config), document_(document), problems_(problems) {}

  void check() {
    check_effects();
    check_run();
    check_model();
    check_batch_and_data();
    check_parametrization();
    check_schedule();
    check_loss_scale();
    check_reproducible();
    check_faults();
    check_groups();
  }

 private:
  void require(bool holds, const std::string& path, const std::string& message) {
    if (!holds) problems_.add(document_.where(path), path, message);
  }

  void check_effects() {
    // The value a key has when it is not given.
    Config untouched;
    untouched.schedule.total_steps = config_.train.steps;
    for (const Effect& effect : effects()) {
      const Key* key = find_key(effect.path);
      if (!document_.given(effect.path) || effect.holds(config_)) continue;
      const std::string value = format_value(key->get(config_));
      require(value == format_value(key->get(untouched)), effect.path,
              value + " would have no effect; it needs " + effect.condition +
                  ". Take the key out (--set " + effect.path + "=null) or change the other one");
    }
  }

  void check_run() {
    const std::string& name = config_.run.name;
    const bool printable = std::all_of(name.begin(), name.end(), [](char c) {
      const auto byte = static_cast<unsigned char>(c);
      return byte >= 0x20 && byte != 0x7f && c != '/';
    });
    require(!name.empty() && name != "." && name != ".." && printable, "run.name",
            "must be legal as a folder's name (not empty, no '/', no control characters), is '" +
                name + "'");
  }

  void check_model() {
    for (const models::ModelConfigProblem& problem : models::find_problems(config_.model)) {
      require(false, "model." + problem.key, problem.message);
    }
  }

  void check_batch_and_data() {
    const auto [global, micro] = config_.batch;
    require(global % micro == 0, "batch.global",
            fmt::format("{} is not a multiple of batch.micro, {}; the nearest that are: {}", global,
                        micro, nearest_multiples(global, micro)));
    require(config_.train.validate_every == 0 || !config_.data.validation.empty(),
            "train.validate_every",
            fmt::format("validating every {} steps needs data.validation (or data.train being one "
                        "prepared directory that holds validation.bin)",
                        config_.train.validate_every));
  }

  static std::string nearest_multiples(std::int64_t global, std::int64_t micro) {
    const std::int64_t below = global / micro * micro;
    return below == 0 ? std::to_string(micro) : fmt::format("{} and {}", below, below + micro);
  }

  void check_parametrization() {
    const bool mup = config_.model.parametrization == models::Parametrization::kMup;
    require(!mup || config_.optimizer.name != OptimizerKind::kSgd, "model.parametrization",
            "mup scales the learning rates of optimizers that divide by the gradient's size; take "
            "adamw, adam, rmsprop, lion or muon, not sgd");
  }

  void check_schedule() {
    const ScheduleConfig& schedule = config_.schedule;
    require(
        schedule.name == ScheduleKind::kConstant || schedule.total_steps > schedule.warmup_steps,
        document_.given("schedule.total_steps") ? "schedule.total_steps" : "schedule.warmup_steps",
        fmt::format("warm-up of {} steps leaves nothing of schedule.total_steps {}{}",
                    schedule.warmup_steps, schedule.total_steps,
                    document_.given("schedule.total_steps") ? "" : " (= train.steps)"));
    require(
        !ends_at_minimum(config_) || schedule.min_learning_rate <= config_.optimizer.learning_rate,
        "schedule.min_learning_rate",
        fmt::format("{} is above optimizer.learning_rate {}", schedule.min_learning_rate,
                    config_.optimizer.learning_rate));
    require(!is_muon(config_) || !ends_at_minimum(config_) ||
                schedule.min_learning_rate <= config_.optimizer.muon.adamw_learning_rate,
            "schedule.min_learning_rate",
            fmt::format("{} is above optimizer.muon.adamw_learning_rate {}",
                        schedule.min_learning_rate, config_.optimizer.muon.adamw_learning_rate));
    if (is_step_schedule(config_)) {
      for (const char* path : {"schedule.step_size", "schedule.gamma"}) {
        require(document_.given(path), path, "required by schedule.name step");
      }
    }
    if (is_wsd_schedule(config_)) {
      const bool given = document_.given("schedule.decay_steps");
      require(given, "schedule.decay_steps", "required by schedule.name wsd");
      const std::int64_t most = schedule.total_steps - schedule.warmup_steps;
      require(
          !given || schedule.decay_steps <= most, "schedule.decay_steps",
          fmt::format("{} is more than the {} steps after warm-up", schedule.decay_steps, most));
    }
  }

  void check_loss_scale() {
    const LossScaleConfig& scale = config_.precision.loss_scale;
    require(
        !is_dynamic(config_) || scale.minimum <= scale.initial, "precision.loss_scale.minimum",
        fmt::format("{} is above precision.loss_scale.initial {}", scale.minimum, scale.initial));
  }

  void check_reproducible() {
    if (config_.run.reproducible != Reproducible::kRanks) return;
    require(config_.parallel.grad_sync == GradSync::kEveryRound, "parallel.grad_sync",
            "boundary adds up a rank's micro-batches before they are exchanged, so the bits depend "
            "on the number of ranks; run.reproducible ranks needs every_round");
    require(config_.parallel.reduce_type == ReduceType::kAuto, "parallel.reduce_type",
            "run.reproducible ranks exchanges gradients exactly, in the compute type; leave it at "
            "auto");
    require(config_.backend.device != DeviceChoice::kCuda, "backend.device",
            "sums on a GPU go in orders that depend on the number of ranks; run.reproducible ranks "
            "needs cpu (or auto, which then takes it)");
    require(config_.memory.on_exhausted == OnExhausted::kStop, "memory.on_exhausted",
            "halve_micro changes batch.micro, and with it the bits; run.reproducible ranks needs "
            "stop");
  }

  void check_faults() {
    for (const FaultConfig& fault : config_.fault) {
      require(fault.layer < config_.model.layers, "fault",
              fmt::format("layer {} does not exist; the model's are 0 to {}", fault.layer,
                          config_.model.layers - 1));
    }
  }

  void check_groups() {
    if (config_.optimizer.groups.empty() || !models::find_problems(config_.model).empty()) return;
    const models::ParameterTable table(config_.model);
    for (const std::string& problem : problems_of_groups(config_.optimizer, table))
      require(false, "optimizer.groups", problem);
  }

  const Config& config_;
  const Document& document_;
  Problems& problems_;
};

}  // namespace

bool has_effect(std::string_view path, const Config& config) {
  const auto& table = effects();
  const auto effect = std::find_if(table.begin(), table.end(),
                                   [path](const Effect& row) { return row.path == path; });
  return effect == table.end() || effect->holds(config);
}

void check_rules(const Config& config, const Document& document, Problems& problems) {
  RuleChecker(config, document, problems).check();
}

}  // namespace lockstep::runtime
