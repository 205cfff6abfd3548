#include <fmt/format.h>

#include <cmath>

#include "runtime/interchange/settings_reader.h"

// Meanings and defaults as of DeepSpeed 0.17; docs/coming_from.md says what differs.
namespace lockstep::runtime {

namespace {

using nlohmann::json;

constexpr const char* kDecay =
    "biases and norms decay there, not here; add optimizer.groups to match";

void read_batch(SettingsReader& in) {
  const auto global = in.whole("train_batch_size");
  const auto micro = in.whole("train_micro_batch_size_per_gpu");
  const auto rounds = in.whole("gradient_accumulation_steps");
  if (global) in.set("batch.global", std::to_string(*global));
  if (micro) in.set("batch.micro", std::to_string(*micro));
  if (!micro && global && rounds)
    in.leave("gradient_accumulation_steps",
             fmt::format("batch.micro is {} / (ranks x {})", *global, *rounds));
  if (!global && micro)
    in.leave("train_micro_batch_size_per_gpu",
             fmt::format("batch.global is {} x {} x ranks: set it", *micro, rounds.value_or(1)));
  if (global && micro && rounds)
    in.leave("gradient_accumulation_steps",
             fmt::format("follows from the number of ranks; {} rounds are {} ranks", *rounds,
                         *global / std::max<std::int64_t>(*micro * *rounds, 1)));
}

void read_clipping(SettingsReader& in) {
  const bool given = in.given("gradient_clipping");
  const auto threshold = in.number("gradient_clipping");
  if (!given)
    return in.leave("gradient_clipping",
                    "absent: clip.threshold 1 holds, the default here and in newer versions there; "
                    "older ones did not clip (clip.mode: none)");
  if (!threshold) return;
  if (*threshold > 0.0) {
    in.set("clip.mode", "global_norm");
    in.set("clip.threshold", *threshold);
  } else {
    in.set("clip.mode", "none");
  }
}

void read_fp16(SettingsReader& in) {
  const std::string scale = "precision.loss_scale.";
  in.set("precision.compute", "fp16");
  const double fixed = in.number("fp16.loss_scale").value_or(0.0);
  const double power = in.number("fp16.initial_scale_power").value_or(16.0);
  const auto window = in.whole("fp16.loss_scale_window").value_or(1000);
  const auto hysteresis = in.whole("fp16.hysteresis").value_or(2);
  const bool consecutive = in.flag("fp16.consecutive_hysteresis", false);
  const double minimum = in.number("fp16.min_loss_scale").value_or(1.0);
  for (const char* never : {"fp16.auto_cast", "fp16.fp16_master_weights_and_grads"})
    if (in.flag(never, false)) in.refuse(never, "master weights and sums are fp32 here");
  if (fixed > 0.0) {
    in.set(scale + "mode", "static");
    in.set(scale + "initial", fixed);
    return;
  }
  in.set(scale + "mode", "dynamic");
  in.set(scale + "initial", std::exp2(power));
  in.set(scale + "growth_interval", std::to_string(window));
  in.set(scale + "hysteresis", std::to_string(hysteresis));
  in.set(scale + "hysteresis_mode", consecutive ? "consecutive" : "budget");
  in.set(scale + "minimum", minimum);
  in.set(scale + "overflow_patience", "1");  // it raises at the first overflow at the minimum
  in.leave("fp16.loss_scale_window",
           "the scale grows one good step earlier here after a start or an overflow");
}

void read_precision(SettingsReader& in) {
  const bool half = in.flag("fp16.enabled", false);
  bool brain = false;
  for (const std::string section : {"bf16", "bfloat16"}) {
    brain = in.flag(section + ".enabled", false) || brain;
    if (!in.flag(section + ".check_grad_overflow", true))
      in.leave(section + ".check_grad_overflow", "gradients are always checked here");
  }
  if (half && brain) return in.refuse("fp16.enabled", "bf16 is enabled too");
  if (in.flag("amp.enabled", false)) in.refuse("amp", "no mixed precision by lists of operations");
  if (half) return read_fp16(in);
  const bool open = in.is_auto("fp16.enabled") || in.is_auto("bf16.enabled");
  if (brain || !open) in.set("precision.compute", brain ? "bf16" : "fp32");
}

void read_zero(SettingsReader& in) {
  const std::string zero = "zero_optimization.";
  const auto stage = in.whole(zero + "stage").value_or(0);
  if (stage < 0 || stage > 2)
    in.refuse(zero + "stage", "parallel.zero_stage is 0, 1 or 2: parameters are not sharded here");
  else
    in.set("parallel.zero_stage", std::to_string(stage));
  if (in.given(zero + "overlap_comm"))
    in.set("parallel.overlap", in.flag(zero + "overlap_comm", true) ? "true" : "false");
  for (const char* always : {"contiguous_gradients", "reduce_scatter", "allgather_partitions"})
    if (!in.flag(zero + always, true)) in.leave(zero + always, "always on here");
  for (const char* bucket : {"reduce_bucket_size", "allgather_bucket_size"})
    if (in.given(zero + bucket))
      in.leave(zero + bucket, "no effect: a bucket is a block (parallel.bucket_mib cuts the rest)");
}

// The parameters of an optimizer that mean the same everywhere.
void read_rates(SettingsReader& in, const std::string& name) {
  const std::string at = "optimizer.params.";
  in.set("optimizer.name", name);
  in.set("optimizer.learning_rate", in.number(at + "lr").value_or(1e-3));
  const double decay = in.number(at + "weight_decay").value_or(0.0);
  in.set("optimizer.weight_decay", decay);
  if (decay > 0.0) in.leave(at + "weight_decay", kDecay);
}

void read_betas(SettingsReader& in, double first, double second) {
  const json betas = in.take("optimizer.params.betas");
  if (betas.is_array() && betas.size() == 2 && betas[0].is_number() && betas[1].is_number()) {
    first = betas[0].get<double>();
    second = betas[1].get<double>();
  } else if (!betas.is_null() && betas != "auto") {
    in.refuse("optimizer.params.betas", "expected two numbers");
  }
  in.set("optimizer.betas", fmt::format("[{}, {}]", format_number(first), format_number(second)));
}

void read_adam(SettingsReader& in, bool decoupled) {
  const std::string at = "optimizer.params.";
  read_rates(in, decoupled ? "adamw" : "adam");
  read_betas(in, 0.9, 0.999);
  in.set("optimizer.eps", in.number(at + "eps").value_or(1e-8));
  if (!in.flag(at + "bias_correction", true)) in.refuse(at + "bias_correction", "always on here");
  if (in.flag(at + "amsgrad", false)) in.refuse(at + "amsgrad", "no such optimizer here");
  in.take(at + "torch_adam");
}

void read_sgd(SettingsReader& in) {
  const std::string at = "optimizer.params.";
  read_rates(in, "sgd");
  in.set("optimizer.momentum", in.number(at + "momentum").value_or(0.0));
  if (in.flag(at + "nesterov", false)) in.refuse(at + "nesterov", "momentum here has no Nesterov");
  if (in.number(at + "dampening").value_or(0.0) != 0.0)
    in.refuse(at + "dampening", "momentum here has no dampening");
}

void read_optimizer(SettingsReader& in) {
  if (!in.given("optimizer")) return;
  const std::string type = in.word("optimizer.type", "");
  if (type == "Adam") return read_adam(in, in.flag("optimizer.params.adam_w_mode", true));
  if (type == "AdamW") return read_adam(in, true);
  if (type == "SGD") return read_sgd(in);
  if (type == "Lion") {
    read_rates(in, "lion");
    return read_betas(in, 0.9, 0.99);
  }
  in.refuse("optimizer.type", "expected Adam, AdamW, SGD or Lion");
}

void read_warmup(SettingsReader& in, const std::string& warmup_type) {
  const std::string at = "scheduler.params.";
  in.set("schedule.warmup_steps", std::to_string(in.whole(at + "warmup_num_steps").value_or(1000)));
  if (in.number(at + "warmup_min_lr").value_or(0.0) != 0.0)
    in.leave(at + "warmup_min_lr", "the warm-up begins at 0 here");
  if (in.word(at + "warmup_type", warmup_type) == "log")
    in.leave(at + "warmup_type", "log there (the default), linear here");
  if (const auto most = in.number(at + "warmup_max_lr")) in.set("optimizer.learning_rate", *most);
}

void read_schedule(SettingsReader& in) {
  if (!in.given("scheduler")) return;
  const std::string at = "scheduler.params.";
  const std::string type = in.word("scheduler.type", "");
  if (type == "WarmupLR") {
    in.set("schedule.name", "constant");
    return read_warmup(in, "log");
  }
  const bool cosine = type == "WarmupCosineLR";
  if (!cosine && type != "WarmupDecayLR")
    return in.refuse("scheduler.type", "expected WarmupLR, WarmupDecayLR or WarmupCosineLR");
  in.set("schedule.name", cosine ? "cosine" : "linear");
  if (const auto total = in.whole(at + "total_num_steps"))
    in.set("schedule.total_steps", std::to_string(*total));
  read_warmup(in, cosine ? "linear" : "log");
  if (!cosine) return;
  const double ratio = in.number(at + "cos_min_ratio").value_or(1e-4);
  const auto rate = in.number("optimizer.params.lr");
  if (rate)
    in.set("schedule.min_learning_rate", ratio * *rate);
  else
    in.leave(at + "cos_min_ratio", "schedule.min_learning_rate is this times the learning rate");
  if (in.number(at + "warmup_min_ratio").value_or(0.0) != 0.0)
    in.leave(at + "warmup_min_ratio", "the warm-up begins at 0 here");
}

void read_rest(SettingsReader& in) {
  const std::string type = in.word("communication_data_type", "");
  if (type == "fp32" || type == "bf16" || type == "fp16")
    in.set("parallel.reduce_type", type);
  else if (!type.empty())
    in.refuse("communication_data_type", "expected fp32, bf16 or fp16");
  const std::string sums = in.word("data_types.grad_accum_dtype", "fp32");
  if (sums != "fp32") in.leave("data_types.grad_accum_dtype", "gradients add up in fp32 here");
  if (in.word("gradient_allreduce_op", "mean") == "sum")
    in.refuse("gradient_allreduce_op", "the loss is a mean over the global batch here");
  for (const char* exact : {"prescale_gradients", "gradient_predivide_factor"})
    if (in.given(exact))
      in.leave(exact, "ranks' gradients are added in fp32 and divided once here");
  if (in.given("activation_checkpointing"))
    in.leave("activation_checkpointing",
             "see memory.recompute; the section alone does nothing there");
  for (const char* changes :
       {"curriculum_learning", "data_efficiency", "compression_training", "progressive_layer_drop",
        "sparse_attention", "quantize_training", "eigenvalue"})
    if (in.given(changes) && in.flag(std::string(changes) + ".enabled", true))
      in.refuse(changes, "changes what is trained, and is not here");
  for (const char* parallel : {"tensor_parallel", "pipeline", "sequence_parallel_size"})
    if (in.given(parallel)) in.refuse(parallel, "ranks share data alone here");
}

}  // namespace

ForeignSettings read_deepspeed(const std::string& text, const std::string& origin,
                               SettingsBase base) {
  SettingsReader in(text, origin, base);
  read_batch(in);
  read_optimizer(in);
  read_schedule(in);
  read_clipping(in);
  read_precision(in);
  read_zero(in);
  read_rest(in);
  return in.finish();
}

}  // namespace lockstep::runtime
