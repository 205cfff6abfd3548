// The rows of `run:` and of the sections that define the mathematics of a training.
#include "runtime/config/schema_builder.h"

namespace lockstep::runtime {
namespace {

using ops::OptimizerKind;

void add_data(SchemaBuilder& schema) {
  schema
      .files("data.train", LOCKSTEP_FIELD(data.train),
             "token files, directories made by `lockstep data prepare`, or glob patterns")
      .required()
      .files("data.validation", LOCKSTEP_FIELD(data.validation), "the same, for validation")
      .derived("data.train if that is one directory that holds validation.bin, else none")
      .choice("data.order", LOCKSTEP_FIELD(data.order),
              {std::pair{"shuffled", DataOrder::kShuffled}, {"sequential", DataOrder::kSequential}},
              "order of the sequences; shuffled anew in every epoch, from run.seed")
      .choice("data.token_type", LOCKSTEP_FIELD(data.token_type),
              {std::pair{"uint16", core::DType::kU16}, {"uint32", core::DType::kU32}},
              "element type of raw token files, which have no header to say it")
      .number("data.mask_probability", LOCKSTEP_FIELD(data.mask_probability), inside(0, 1),
              "masked_lm: part of the tokens that is masked")
      .integer("data.mask_token", LOCKSTEP_FIELD(data.mask_token), between(0, 1 << 30),
               "masked_lm: id of the mask token")
      .unset("not used")
      .text("data.label_field", LOCKSTEP_FIELD(data.label_field),
            "classification: field that holds the label")
      .unset("not used")
      .integer("batch.global", LOCKSTEP_FIELD(batch.global), between(1, 1 << 30),
               "sequences of a step, over all ranks; a multiple of micro * ranks")
      .required()
      .integer("batch.micro", LOCKSTEP_FIELD(batch.micro), between(1, 1 << 30),
               "sequences that one rank computes at a time")
      .required()
      .integer("train.steps", LOCKSTEP_FIELD(train.steps), at_least(1),
               "steps to attempt, skipped ones included")
      .required()
      .integer("train.validate_every", LOCKSTEP_FIELD(train.validate_every), at_least(0),
               "steps between validations; 0: never")
      .integer("train.validate_batches", LOCKSTEP_FIELD(train.validate_batches), at_least(0),
               "global batches of one validation; 0: all of the validation data");
}

void add_optimization(SchemaBuilder& schema) {
  schema
      .number("loss.label_smoothing", LOCKSTEP_FIELD(loss.label_smoothing), below(0, 1),
              "e in the target (1-e)*onehot + e/vocab")
      .number("loss.z_loss", LOCKSTEP_FIELD(loss.z_loss), at_least(0),
              "weight of the squared log-sum-exp of the logits")
      .choice(
          "loss.normalise", LOCKSTEP_FIELD(loss.normalise),
          {std::pair{"tokens", LossNormalise::kTokens}, {"sequences", LossNormalise::kSequences}},
          "what the loss is a mean over: all counted target tokens of a step, or its sequences, "
          "each the mean over its own")
      .choice("optimizer.name", LOCKSTEP_FIELD(optimizer.name),
              {std::pair{"adamw", OptimizerKind::kAdamW},
               {"adam", OptimizerKind::kAdam},
               {"sgd", OptimizerKind::kSgd},
               {"rmsprop", OptimizerKind::kRmsProp},
               {"lion", OptimizerKind::kLion},
               {"muon", OptimizerKind::kMuon}},
              "update rule; muon: of the matrices of the blocks, and adamw for the rest")
      .number("optimizer.learning_rate", LOCKSTEP_FIELD(optimizer.learning_rate), at_least(0),
              "peak learning rate, where warm-up ends")
      .required()
      .pair("optimizer.betas", LOCKSTEP_FIELD(optimizer.betas), below(0, 1),
            "decay of the moments; adamw, adam, lion, and the rest under muon")
      .number("optimizer.eps", LOCKSTEP_FIELD(optimizer.eps), at_least(0),
              "added to the denominator; adamw, adam, rmsprop, and the rest under muon")
      .number(
          "optimizer.weight_decay", LOCKSTEP_FIELD(optimizer.weight_decay), at_least(0),
          "decoupled in adamw, lion and muon, else added to the gradient; not on biases, norms and "
          "1-d parameters")
      .number("optimizer.momentum", LOCKSTEP_FIELD(optimizer.momentum), below(0, 1), "sgd, rmsprop")
      .number("optimizer.alpha", LOCKSTEP_FIELD(optimizer.alpha), below(0, 1),
              "decay of the squared gradient; rmsprop")
      .groups(
          "optimizer.groups", LOCKSTEP_FIELD(optimizer.groups),
          "tensors treated otherwise; the first item whose match (tensor names, * and ? as in "
          "shells) fits counts: its weight_decay instead of the rule above, on biases and norms "
          "too; freeze: no gradient, no optimizer state, left out of the norm")
      .unset("none")
      .number("optimizer.muon.momentum", LOCKSTEP_FIELD(optimizer.muon.momentum), below(0, 1),
              "decay of the averaged gradient")
      .boolean("optimizer.muon.nesterov", LOCKSTEP_FIELD(optimizer.muon.nesterov),
               "look ahead: iterate on the gradient and its average, mixed")
      .integer("optimizer.muon.ns_steps", LOCKSTEP_FIELD(optimizer.muon.ns_steps), between(1, 99),
               "iterations of Newton-Schulz")
      .choice("optimizer.muon.ns_dtype", LOCKSTEP_FIELD(optimizer.muon.ns_dtype),
              {std::pair{"fp32", core::DType::kF32}, {"bf16", core::DType::kBF16}},
              "type of the iterations; bf16 is torch.optim.Muon's, about 1 % away")
      .choice("optimizer.muon.adjust", LOCKSTEP_FIELD(optimizer.muon.adjust),
              {std::pair{"original", MuonAdjust::kOriginal},
               {"match_rms_adamw", MuonAdjust::kMatchRmsAdamW}},
              "factor of the learning rate of a matrix [out, in]: sqrt(max(1, out / in)), or "
              "0.2 sqrt(max(out, in)), with which AdamW's learning rates serve")
      .number("optimizer.muon.adamw_learning_rate",
              LOCKSTEP_FIELD(optimizer.muon.adamw_learning_rate), at_least(0),
              "peak learning rate of the rest")
      .derived("optimizer.learning_rate");
}

void add_schedule_and_clip(SchemaBuilder& schema) {
  schema
      .choice("schedule.name", LOCKSTEP_FIELD(schedule.name),
              {std::pair{"cosine", ScheduleKind::kCosine},
               {"linear", ScheduleKind::kLinear},
               {"constant", ScheduleKind::kConstant},
               {"step", ScheduleKind::kStep},
               {"inverse_sqrt", ScheduleKind::kInverseSqrt},
               {"wsd", ScheduleKind::kWsd}},
              "learning rate after warm-up; steps here are applied steps")
      .integer("schedule.warmup_steps", LOCKSTEP_FIELD(schedule.warmup_steps), at_least(0),
               "steps of linear warm-up from 0")
      .integer("schedule.total_steps", LOCKSTEP_FIELD(schedule.total_steps), at_least(1),
               "step at which min_learning_rate is reached; cosine, linear, wsd")
      .derived("train.steps")
      .number("schedule.min_learning_rate", LOCKSTEP_FIELD(schedule.min_learning_rate), at_least(0),
              "final learning rate; cosine, linear, wsd")
      .integer("schedule.step_size", LOCKSTEP_FIELD(schedule.step_size), at_least(1),
               "steps between reductions; required by step")
      .unset("not used")
      .number("schedule.gamma", LOCKSTEP_FIELD(schedule.gamma), Range{0, 1, true, false},
              "factor of each reduction; required by step")
      .unset("not used")
      .integer("schedule.decay_steps", LOCKSTEP_FIELD(schedule.decay_steps), at_least(1),
               "steps of the final linear decay; required by wsd")
      .unset("not used")
      .choice("clip.mode", LOCKSTEP_FIELD(clip.mode),
              {std::pair{"global_norm", ClipMode::kGlobalNorm},
               {"tensor_norm", ClipMode::kTensorNorm},
               {"value", ClipMode::kValue},
               {"zclip", ClipMode::kZClip},
               {"adagc", ClipMode::kAdaGc},
               {"none", ClipMode::kNone}},
              "how the aggregated gradient is clipped; zclip: a global norm that leaps out of its "
              "own recent mean and spread; adagc: every tensor against its own recent norm")
      .number("clip.threshold", LOCKSTEP_FIELD(clip.threshold), above(0),
              "norm, or absolute value, that is not exceeded; zclip: at any time, adagc: by the "
              "global norm during warm-up")
      .number("clip.window_decay", LOCKSTEP_FIELD(clip.window_decay), inside(0, 1),
              "decay of the averages of norms; zclip, adagc")
      .derived("0.97; adagc: 0.99")
      .number("clip.z_threshold", LOCKSTEP_FIELD(clip.z_threshold), above(0),
              "standard deviations above the mean beyond which a norm is a spike; zclip")
      .number("clip.ratio", LOCKSTEP_FIELD(clip.ratio), at_least(1),
              "what a tensor's norm may be of its average; adagc")
      .integer("clip.warmup_steps", LOCKSTEP_FIELD(clip.warmup_steps), at_least(1),
               "applied steps whose norms the first averages are taken of; zclip, adagc")
      .derived("zclip: 25; adagc: 100");
}

void add_precision(SchemaBuilder& schema) {
  constexpr double kLargestScale = 1 << 24;
  schema
      .choice("precision.compute", LOCKSTEP_FIELD(precision.compute),
              {std::pair{"fp32", core::DType::kF32},
               {"bf16", core::DType::kBF16},
               {"fp16", core::DType::kF16}},
              "type of weights, activations and gradients; master weights are fp32")
      .choice("precision.loss_scale.mode", LOCKSTEP_FIELD(precision.loss_scale.mode),
              {std::pair{"dynamic", LossScaleMode::kDynamic},
               {"static", LossScaleMode::kStatic},
               {"none", LossScaleMode::kNone}},
              "whether the loss is scaled before backward")
      .derived("dynamic with fp16, else none")
      .number("precision.loss_scale.initial", LOCKSTEP_FIELD(precision.loss_scale.initial),
              Range{0, kLargestScale, true, false}, "first scale, the only one in mode static")
      .number("precision.loss_scale.growth_factor",
              LOCKSTEP_FIELD(precision.loss_scale.growth_factor), above(1), "dynamic")
      .number("precision.loss_scale.backoff_factor",
              LOCKSTEP_FIELD(precision.loss_scale.backoff_factor), inside(0, 1), "dynamic")
      .integer("precision.loss_scale.growth_interval",
               LOCKSTEP_FIELD(precision.loss_scale.growth_interval), at_least(1),
               "applied steps between growths; dynamic")
      .integer("precision.loss_scale.hysteresis", LOCKSTEP_FIELD(precision.loss_scale.hysteresis),
               at_least(1), "overflows that bring the scale down; dynamic")
      .choice("precision.loss_scale.hysteresis_mode",
              LOCKSTEP_FIELD(precision.loss_scale.hysteresis_mode),
              {std::pair{"consecutive", HysteresisMode::kConsecutive},
               {"budget", HysteresisMode::kBudget}},
              "consecutive: an applied step restores the hysteresis; budget: only growth does")
      .number("precision.loss_scale.minimum", LOCKSTEP_FIELD(precision.loss_scale.minimum),
              Range{0, kLargestScale, true, false}, "the scale never falls below; dynamic")
      .integer("precision.loss_scale.max_consecutive_skips",
               LOCKSTEP_FIELD(precision.loss_scale.max_consecutive_skips), at_least(1),
               "skipped steps in a row, from whatever cause, that end the run (exit 4)")
      .integer("precision.loss_scale.overflow_patience",
               LOCKSTEP_FIELD(precision.loss_scale.overflow_patience), at_least(1),
               "overflows in a row at the minimum that end the run (exit 4); dynamic");
}

}  // namespace

void add_run_keys(SchemaBuilder& schema) {
  schema.text("run.name", LOCKSTEP_FIELD(run.name), "names the run; legal as a folder's name")
      .derived("stem of the configuration file")
      .integer("run.seed", LOCKSTEP_FIELD(run.seed), at_least(0),
               "of initial weights, data order and dropout")
      .file("run.output", LOCKSTEP_FIELD(run.output), "folder of everything the run writes")
      .derived("runs/NAME")
      .choice("run.reproducible", LOCKSTEP_FIELD(run.reproducible),
              {std::pair{"none", Reproducible::kNone},
               {"run", Reproducible::kRun},
               {"ranks", Reproducible::kRanks}},
              "same bits: never promised; at the same number of ranks; at any number of ranks")
      .number("run.time_limit", LOCKSTEP_FIELD(run.time_limit), at_least(0),
              "seconds after which the run stops, resumable; 0: none");
}

void add_training_keys(SchemaBuilder& schema) {
  add_data(schema);
  add_optimization(schema);
  add_schedule_and_clip(schema);
  add_precision(schema);
}

}  // namespace lockstep::runtime
