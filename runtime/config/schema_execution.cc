// The rows that say how and where a training runs and what it writes, not what it computes.
#include "runtime/config/schema_builder.h"

namespace lockstep::runtime {
namespace {

void add_parallel(SchemaBuilder& schema) {
  schema
      .integer("parallel.zero_stage", LOCKSTEP_FIELD(parallel.zero_stage), between(0, 2),
               "ZeRO: 0 nothing, 1 optimizer state, 2 also gradients are sharded")
      .choice("parallel.grad_sync", LOCKSTEP_FIELD(parallel.grad_sync),
              {std::pair{"every_round", GradSync::kEveryRound}, {"boundary", GradSync::kBoundary}},
              "reduce gradients in every accumulation round, or once a step from a full fp32 "
              "gradient on every rank")
      .derived("every_round with zero_stage 2 or reproducible ranks, else boundary")
      .number("parallel.bucket_mib", LOCKSTEP_FIELD(parallel.bucket_mib), above(0),
              "MiB; embeddings and an untied head that are larger are split")
      .boolean("parallel.overlap", LOCKSTEP_FIELD(parallel.overlap),
               "reduce gradients while backward goes on, gather parameters while the next forward "
               "does; false: wait for each where it is started; same bits")
      .choice("parallel.reduce_type", LOCKSTEP_FIELD(parallel.reduce_type),
              {std::pair{"auto", ReduceType::kAuto},
               {"fp32", ReduceType::kF32},
               {"bf16", ReduceType::kBF16},
               {"fp16", ReduceType::kF16}},
              "type gradients travel in; auto: the compute type with every_round, fp32 with "
              "boundary")
      .integer("parallel.verify_every", LOCKSTEP_FIELD(parallel.verify_every), at_least(0),
               "steps between comparisons of the parameters of all ranks; 0: never")
      .number("parallel.timeout_seconds", LOCKSTEP_FIELD(parallel.timeout_seconds), above(0),
              "a collective that takes longer ends the run (exit 5)")
      .choice("backend.device", LOCKSTEP_FIELD(backend.device),
              {std::pair{"auto", DeviceChoice::kAuto},
               {"cpu", DeviceChoice::kCpu},
               {"cuda", DeviceChoice::kCuda}},
              "auto: cuda where every local rank finds a device of its own, else cpu")
      .choice("backend.comm", LOCKSTEP_FIELD(backend.comm),
              {std::pair{"auto", CommChoice::kAuto},
               {"self", CommChoice::kSelf},
               {"mpi", CommChoice::kMpi},
               {"nccl", CommChoice::kNccl}},
              "auto: self at one rank, nccl on cuda, else mpi")
      .choice("backend.nccl_buffers", LOCKSTEP_FIELD(backend.nccl_buffers),
              {std::pair{"plain", comm::NcclBuffers::kPlain},
               {"registered", comm::NcclBuffers::kRegistered},
               {"symmetric", comm::NcclBuffers::kSymmetric}},
              "registered: NCCL works directly in the buffers of parameters and gradients; "
              "symmetric: and gathers parameters by copy engines. Measured on no machine yet: try "
              "registered, and compare with bench step")
      .integer("backend.threads", LOCKSTEP_FIELD(backend.threads), between(1, 4096),
               "CPU threads of one rank")
      .unset("OMP_NUM_THREADS, else cores of the node / ranks on it");
}

void add_upkeep(SchemaBuilder& schema) {
  schema
      .choice(
          "memory.recompute", LOCKSTEP_FIELD(memory.recompute),
          {std::pair{"none", Recompute::kNone},
           {"attention", Recompute::kAttention},
           {"block", Recompute::kBlock}},
          "activations computed again in backward instead of kept: what attention keeps (about a "
          "tenth more time), or all of a block but its input (a fifth); same bits")
      .number("memory.limit_mib", LOCKSTEP_FIELD(memory.limit_mib), at_least(0),
              "MiB that one rank may allocate; a run that needs more ends at its start (exit 6); "
              "0: no limit")
      .choice(
          "memory.on_exhausted", LOCKSTEP_FIELD(memory.on_exhausted),
          {std::pair{"stop", OnExhausted::kStop}, {"halve_micro", OnExhausted::kHalveMicro}},
          "when a rank lacks memory at the start: end all ranks (exit 6), or halve batch.micro, "
          "and double the rounds, until it fits")
      .number(
          "ema.decay", LOCKSTEP_FIELD(ema.decay), below(0, 1),
          "moving average of the weights, kept beside them, validated too, chosen by --weights "
          "ema: average = decay * average + (1 - decay) * weights; 0: off. 4 bytes a parameter, "
          "sharded; smooths out the last steps, so the learning rate may stay higher")
      .integer("ema.every", LOCKSTEP_FIELD(ema.every), at_least(1),
               "applied steps between updates of the average, each with ema.decay")
      .boolean("ema.warmup", LOCKSTEP_FIELD(ema.warmup),
               "at update n decay is at most (1 + n) / (10 + n), so that the initial weights are "
               "soon forgotten; for runs shorter than some 5 / (1 - decay) updates")
      .integer("checkpoint.every_steps", LOCKSTEP_FIELD(checkpoint.every_steps), at_least(0),
               "steps between checkpoints; one is always written at the end; 0: only that one")
      .integer("checkpoint.keep", LOCKSTEP_FIELD(checkpoint.keep), at_least(1),
               "newest checkpoints that are kept")
      .boolean("checkpoint.async", LOCKSTEP_FIELD(checkpoint.async),
               "write checkpoints while training goes on")
      .boolean("checkpoint.on_signal", LOCKSTEP_FIELD(checkpoint.on_signal),
               "write a checkpoint before stopping on a signal")
      .integer("metrics.every_steps", LOCKSTEP_FIELD(metrics.every_steps), at_least(1),
               "steps between step lines in metrics.jsonl")
      .boolean("metrics.tensorboard", LOCKSTEP_FIELD(metrics.tensorboard),
               "write TensorBoard event files too")
      .integer("metrics.per_layer_every", LOCKSTEP_FIELD(metrics.per_layer_every), at_least(0),
               "steps between statistics of every layer; 0: never")
      .integer("metrics.histograms_every", LOCKSTEP_FIELD(metrics.histograms_every), at_least(0),
               "steps between histograms of every tensor; 0: never")
      .number(
          "health.vanishing_norm", LOCKSTEP_FIELD(health.vanishing_norm), at_least(0),
          "gradient norm below which the gradient counts as vanished: told, nothing else; 0: off")
      .number(
          "health.spike_factor", LOCKSTEP_FIELD(health.spike_factor), at_least(0),
          "how far above the recent median, in robust standard deviations, loss or gradient norm "
          "may leap; beyond, a step is not applied unless that level stays; 0: off")
      .choice("health.on_divergence", LOCKSTEP_FIELD(health.on_divergence),
              {std::pair{"stop", OnDivergence::kStop},
               {"skip", OnDivergence::kSkip},
               {"rollback", OnDivergence::kRollback}},
              "what follows a loss that is not finite, or a spike: the end of the run (exit 4), "
              "the next "
              "step, or the newest healthy checkpoint without the steps that broke the run")
      .integer("health.replay_bundles", LOCKSTEP_FIELD(health.replay_bundles), at_least(0),
               "newest replay bundles that are kept, of steps that went wrong; 0: none are written")
      .faults("fault", LOCKSTEP_FIELD(fault),
              "faults injected for drills: kind overflow, nan, bitflip, hang, kill, slow, oom or "
              "throw; "
              "step as in metrics; rank (0); layer, 0-based (0)");
}

}  // namespace

void add_execution_keys(SchemaBuilder& schema) {
  add_parallel(schema);
  add_upkeep(schema);
}

}  // namespace lockstep::runtime
