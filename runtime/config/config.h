#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "comm/nccl/nccl_options.h"
#include "core/dtype.h"
#include "models/model_config.h"
#include "ops/optimizer_update.h"

// The resolved configuration of a run: one struct per section of the YAML file, member names equal
// to the keys. "Resolved" means that every default has been filled in and every check has passed,
// so no reader asks whether a key was given. runtime/config/schema.h describes each key (type,
// range, default, meaning); runtime/config/load_config.h reads files.
namespace lockstep::runtime {

enum class Reproducible { kNone, kRun, kRanks };
enum class DataOrder { kShuffled, kSequential };
enum class ScheduleKind { kCosine, kLinear, kConstant, kStep, kInverseSqrt, kWsd };
enum class ClipMode { kGlobalNorm, kTensorNorm, kValue, kZClip, kAdaGc, kNone };
enum class LossScaleMode { kDynamic, kStatic, kNone };
enum class HysteresisMode { kConsecutive, kBudget };
enum class GradSync { kEveryRound, kBoundary };
enum class ReduceType { kAuto, kF32, kBF16, kF16 };
enum class DeviceChoice { kAuto, kCpu, kCuda };
enum class CommChoice { kAuto, kSelf, kMpi, kNccl };
enum class Recompute { kNone, kAttention, kBlock };
enum class LossNormalise { kTokens, kSequences };
enum class Documents { kIgnore, kMask };
enum class Packing { kCut, kBestFit };
enum class MuonAdjust { kOriginal, kMatchRmsAdamW };
enum class OnDivergence { kStop, kSkip, kRollback };
enum class OnExhausted { kStop, kHalveMicro };
enum class FaultKind { kOverflow, kNan, kBitflip, kHang, kKill, kSlow, kOom, kThrow };

struct RunConfig {
  std::string name;  // the stem of the configuration file unless given
  std::uint64_t seed = 1337;
  std::string output;  // absolute
  Reproducible reproducible = Reproducible::kRun;
  double time_limit = 0.0;  // seconds; 0: none
};

// Paths are absolute; each is a file, a prepared directory or a glob pattern, as written.
struct DataConfig {
  std::vector<std::string> train;       // at least one
  std::vector<std::string> validation;  // empty: no validation data
  DataOrder order = DataOrder::kShuffled;
  Documents documents = Documents::kIgnore;
  Packing packing = Packing::kCut;
  core::DType token_type = core::DType::kU16;  // kU16 or kU32; of raw files without a header
  double mask_probability = 0.15;
  std::int64_t mask_token = -1;  // -1: not given
  std::string label_field;       // empty: not given
};

// In sequences.
struct BatchConfig {
  std::int64_t global = 0;  // a multiple of micro
  std::int64_t micro = 0;   // of one rank in one accumulation round
};

struct TrainConfig {
  std::int64_t steps = 0;             // attempts
  std::int64_t validate_every = 0;    // steps; 0: never
  std::int64_t validate_batches = 0;  // global batches; 0: all of the validation data
};

struct LossConfig {
  double label_smoothing = 0.0;  // in [0, 1)
  double z_loss = 0.0;
  LossNormalise normalise = LossNormalise::kTokens;
};

// optimizer.muon, for the matrices of the blocks; torch.optim.Muon has the semantics.
struct MuonConfig {
  double momentum = 0.95;
  bool nesterov = true;
  std::int64_t ns_steps = 5;
  core::DType ns_dtype = core::DType::kF32;  // kF32 or kBF16
  MuonAdjust adjust = MuonAdjust::kOriginal;
  double adamw_learning_rate = 0.0;  // of every other tensor; optimizer.learning_rate unless given
};

// One row of optimizer.groups: the first whose pattern matches a tensor's name counts.
struct OptimizerGroup {
  std::string match;  // of tensor names, with * and ? as in shells
  double learning_rate_scale = 1.0;
  double weight_decay = -1.0;  // -1: not given, the optimizer's rule holds
  bool freeze = false;

  bool operator==(const OptimizerGroup&) const = default;
};

struct OptimizerConfig {
  ops::OptimizerKind name = ops::OptimizerKind::kAdamW;
  double learning_rate = 0.0;
  std::array<double, 2> betas = {0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;
  double momentum = 0.0;  // sgd, rmsprop
  double alpha = 0.99;    // rmsprop
  MuonConfig muon;
  std::vector<OptimizerGroup> groups;
};

// Steps are applied steps.
struct ScheduleConfig {
  ScheduleKind name = ScheduleKind::kCosine;
  std::int64_t warmup_steps = 0;
  std::int64_t total_steps = 0;  // train.steps unless given
  double min_learning_rate = 0.0;
  std::int64_t step_size = 0;    // step only, else 0
  double gamma = 0.0;            // step only, else 0
  std::int64_t decay_steps = 0;  // wsd only, else 0
};

struct ClipConfig {
  ClipMode mode = ClipMode::kGlobalNorm;
  double threshold = 1.0;
  double window_decay = 0.97;     // zclip, adagc (0.99 unless given)
  double z_threshold = 2.5;       // zclip
  double ratio = 1.04;            // adagc
  std::int64_t warmup_steps = 0;  // zclip (25 unless given), adagc (100); applied steps
};

struct LossScaleConfig {
  LossScaleMode mode = LossScaleMode::kNone;  // fp16: dynamic, else none, unless given
  double initial = 65536.0;
  double growth_factor = 2.0;
  double backoff_factor = 0.5;
  std::int64_t growth_interval = 2000;
  std::int64_t hysteresis = 1;
  HysteresisMode hysteresis_mode = HysteresisMode::kConsecutive;
  double minimum = 1.0;
  std::int64_t max_consecutive_skips = 50;
  std::int64_t overflow_patience = 8;
};

struct PrecisionConfig {
  core::DType compute = core::DType::kF32;  // kF32, kBF16 or kF16
  LossScaleConfig loss_scale;
};

struct ParallelConfig {
  int zero_stage = 2;                          // 0, 1 or 2
  GradSync grad_sync = GradSync::kEveryRound;  // by stage and run.reproducible unless given
  double bucket_mib = 25.0;                    // embeddings and untied heads above it are split
  bool overlap = true;                         // move buckets while ranks compute
  ReduceType reduce_type = ReduceType::kAuto;  // resolved by reduce_dtype()
  std::int64_t verify_every = 100;             // steps; 0: never
  double timeout_seconds = 300.0;              // of one collective
};

struct BackendConfig {
  DeviceChoice device = DeviceChoice::kAuto;
  CommChoice comm = CommChoice::kAuto;
  comm::NcclBuffers nccl_buffers = comm::NcclBuffers::kPlain;
  int threads = 0;  // of one rank; 0: OMP_NUM_THREADS, else cores of the node / ranks on it
};

struct MemoryConfig {
  Recompute recompute = Recompute::kNone;
  double limit_mib = 0.0;  // of what one rank allocates; 0: none
  OnExhausted on_exhausted = OnExhausted::kStop;
};

struct EmaConfig {
  double decay = 0.0;      // 0: off
  std::int64_t every = 1;  // applied steps between updates
  bool warmup = false;     // decay min(decay, (1 + n) / (10 + n)) at update n
};

// One evaluation inside a run.
struct EvalTask {
  std::string name;
  std::string path;  // absolute
  std::string kind;  // "text", "multiple_choice" or "classification"

  bool operator==(const EvalTask&) const = default;
};

struct EvalConfig {
  std::int64_t every_steps = 0;  // 0: never
  std::vector<EvalTask> tasks;
};

struct CheckpointConfig {
  std::int64_t every_steps = 0;  // 0: only at the end
  std::int64_t keep = 3;         // newest ones kept
  bool async = true;
  bool on_signal = true;  // a stop request saves first
};

struct MetricsConfig {
  std::int64_t every_steps = 1;
  bool tensorboard = false;
  std::int64_t per_layer_every = 0;   // 0: never
  std::int64_t histograms_every = 0;  // 0: never
};

struct HealthConfig {
  double vanishing_norm = 1e-7;  // 0: off
  double spike_factor = 10.0;    // 0: off
  OnDivergence on_divergence = OnDivergence::kStop;
  std::int64_t replay_bundles = 3;  // newest ones kept; 0: none are written
};

// One injected fault. `step` is the attempt shown in metrics (from 1), `layer` a 0-based block.
struct FaultConfig {
  FaultKind kind = FaultKind::kOverflow;
  std::int64_t step = 0;
  std::int64_t rank = 0;
  std::int64_t layer = 0;

  bool operator==(const FaultConfig&) const = default;
};

struct Config {
  std::string source;  // where it was read from, for messages; not part of the configuration

  RunConfig run;
  models::ModelConfig model;
  std::string init_from;     // model.init_from: absolute path of weights, or empty
  bool init_resize = false;  // model.init_resize: cut or pad context and vocabulary of init_from
  DataConfig data;
  BatchConfig batch;
  TrainConfig train;
  LossConfig loss;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  ClipConfig clip;
  PrecisionConfig precision;
  ParallelConfig parallel;
  BackendConfig backend;
  MemoryConfig memory;
  EmaConfig ema;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  MetricsConfig metrics;
  HealthConfig health;
  std::vector<FaultConfig> fault;
};

// The type gradients travel in: parallel.reduce_type with `auto` resolved (the compute type with
// every_round, fp32 with boundary).
core::DType reduce_dtype(const Config& config);

// fp32 tensors of optimizer state per element: 0, 1 or 2.
int state_tensors(const OptimizerConfig& optimizer);

// Micro-batches that each of world_size ranks computes in a step: global / (micro * world_size).
// Error(kConfig) listing the rank counts that fit unless that divides.
std::int64_t accumulation_rounds(const Config& config, int world_size);

// Everything that depends on the number of ranks: the global batch divides, backend.comm can hold
// that many, faults name ranks that exist. Error(kConfig) otherwise.
void validate_for_world(const Config& config, int world_size);

}  // namespace lockstep::runtime
