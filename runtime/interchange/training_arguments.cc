#include <fmt/format.h>

#include <cmath>

#include "runtime/interchange/settings_reader.h"

// Meanings and defaults as of Transformers 5; docs/coming_from.md says what differs.
namespace lockstep::runtime {

namespace {

using nlohmann::json;

void read_batch(SettingsReader& in) {
  const auto micro = in.whole("per_device_train_batch_size").value_or(8);
  const auto rounds = in.whole("gradient_accumulation_steps").value_or(1);
  in.set("batch.micro", std::to_string(micro));
  in.leave("gradient_accumulation_steps",
           fmt::format("batch.global is {} x {} x ranks: set it", micro, rounds));
  const bool mean_of_means = !in.flag("average_tokens_across_devices", true);
  if (mean_of_means)
    in.leave(
        "average_tokens_across_devices",
        "the loss is the sum over all tokens of the global batch divided by their number here");
}

// Steps of the run, where they are given in steps.
std::optional<std::int64_t> read_steps(SettingsReader& in) {
  const auto steps = in.whole("max_steps");
  const auto epochs = in.number("num_train_epochs");
  if (steps && *steps > 0) {
    in.set("train.steps", std::to_string(*steps));
    return steps;
  }
  in.leave("num_train_epochs",
           fmt::format("{} epochs: train.steps is that times sequences / batch.global",
                       format_number(epochs.value_or(3.0))));
  return std::nullopt;
}

void read_optimizer(SettingsReader& in) {
  const std::string name = in.word("optim", "adamw_torch");
  in.set("optimizer.learning_rate", in.number("learning_rate").value_or(5e-5));
  in.set("optimizer.weight_decay", in.number("weight_decay").value_or(0.0));
  const double first = in.number("adam_beta1").value_or(0.9);
  const double second = in.number("adam_beta2").value_or(0.999);
  const double eps = in.number("adam_epsilon").value_or(1e-8);
  if (name.starts_with("adamw_torch") || name == "adamw_hf") {
    in.set("optimizer.name", "adamw");
    in.set("optimizer.betas", fmt::format("[{}, {}]", format_number(first), format_number(second)));
    in.set("optimizer.eps", eps);
  } else if (name == "sgd") {
    in.set("optimizer.name", "sgd");
  } else {
    in.refuse("optim", "expected adamw_torch, adamw_torch_fused or sgd");
  }
}

void read_schedule(SettingsReader& in, std::optional<std::int64_t> steps) {
  const std::string type = in.word("lr_scheduler_type", "linear");
  const json more = in.take("lr_scheduler_kwargs");
  if (!more.is_null() && !more.empty()) in.refuse("lr_scheduler_kwargs", "no such settings here");
  if (type == "linear" || type == "cosine") {
    in.set("schedule.name", type);
  } else if (type == "constant" || type == "constant_with_warmup") {
    in.set("schedule.name", "constant");
  } else {
    in.refuse("lr_scheduler_type", "expected linear, cosine, constant or constant_with_warmup");
  }
  // A number below 1 is a share of the steps (version 5), as warmup_ratio is.
  const double given = in.number("warmup_steps").value_or(0.0);
  const double ratio = given > 0.0 && given < 1.0 ? given : in.number("warmup_ratio").value_or(0.0);
  if (given >= 1.0) {
    in.set("schedule.warmup_steps", std::to_string(std::llround(given)));
  } else if (ratio > 0.0 && steps) {
    in.set("schedule.warmup_steps",
           std::to_string(std::llround(std::ceil(ratio * static_cast<double>(*steps)))));
  } else if (ratio > 0.0) {
    in.leave("warmup_ratio", "schedule.warmup_steps is this times train.steps");
  }
}

void read_precision(SettingsReader& in) {
  const bool half = in.flag("fp16", false);
  const bool brain = in.flag("bf16", false);
  if (half && brain) return in.refuse("fp16", "bf16 is set too");
  in.set("precision.compute", half ? "fp16" : brain ? "bf16" : "fp32");
}

void read_rest(SettingsReader& in) {
  const double clip = in.number("max_grad_norm").value_or(1.0);
  if (clip > 0.0) {
    in.set("clip.mode", "global_norm");
    in.set("clip.threshold", clip);
  } else {
    in.set("clip.mode", "none");
  }
  const double smoothing = in.number("label_smoothing_factor").value_or(0.0);
  if (smoothing > 0.0) in.set("loss.label_smoothing", smoothing);
  if (const auto seed = in.whole("seed")) in.set("run.seed", std::to_string(*seed));
  const auto save = in.number("save_steps");
  if (in.word("save_strategy", "steps") == "steps" && save && *save >= 1.0)
    in.set("checkpoint.every_steps", std::to_string(std::llround(*save)));
  if (const auto keep = in.whole("save_total_limit"))
    in.set("checkpoint.keep", std::to_string(*keep));
  for (const char* changes : {"neftune_noise_alpha", "optim_target_modules"})
    if (!in.take(changes).is_null()) in.refuse(changes, "changes what is trained, and is not here");
  if (!in.take("deepspeed").is_null()) in.leave("deepspeed", "see lockstep config from-deepspeed");
}

}  // namespace

ForeignSettings read_training_arguments(const std::string& text, const std::string& origin) {
  SettingsReader in(text, origin, SettingsBase::kNone);
  read_batch(in);
  const std::optional<std::int64_t> steps = read_steps(in);
  read_optimizer(in);
  read_schedule(in, steps);
  read_precision(in);
  read_rest(in);
  return in.finish();
}

}  // namespace lockstep::runtime
