#pragma once

#include <cstdint>
#include <type_traits>

#include "ops/exact_sum.h"
#include "runtime/step/save_progress.h"
#include "runtime/step/step_timing.h"

namespace lockstep::runtime {

// What one rank found out alone in one step. Gathered once a step from all ranks; everything that
// is decided about the step is a pure function of the gathered reports (step_decision.h). Trivially
// copyable: it is the wire format.

// The first non-finite gradient elements of a rank's own gradient, before any reduction: in its
// earliest such round, the first such bucket in backward order, and in it the first such tensor, in
// backward order too.
struct NonFiniteReport {
  std::int64_t inf = 0;  // elements in that tensor
  std::int64_t nan = 0;
  std::int32_t bucket = -1;     // index in the bucket layout; -1: nothing non-finite
  std::int32_t parameter = -1;  // ParameterId

  bool found() const { return bucket >= 0; }
};

// A rank's view of the run before the step: all ranks must hold the same. The chain head covers
// every earlier decision.
struct RunView {
  std::int64_t step = 0;           // attempt, 1-based
  std::int64_t data_position = 0;  // sequences dealt before this step
  std::int64_t applied_steps = 0;
  double learning_rate = 0.0;
  double loss_scale = 1.0;
  std::uint64_t config_fingerprint = 0;
  std::uint64_t chain_head = 0;  // of the ledger
  std::uint64_t parameter_digest =
      0;  // on steps that verify: over all parameter hashes since the last one; else 0
};

// Requests that a person or a machine made of one rank; they become everybody's by the decision.
enum ControlRequest : std::uint32_t {
  kRequestNone = 0,
  kRequestCheckpoint = 1U << 0,
  kRequestStop = 1U << 1,
};

struct StepReport {
  RunView view;
  ops::ExactSum sum_of_squares;       // of this rank's shard of the aggregated, scaled gradient
  ops::ExactSum optimised_loss;       // one addend a micro-batch, unscaled
  std::int64_t counted = 0;           // target tokens
  std::int64_t terms = 0;             // of the loss: ops::LossSums::terms
  std::int64_t nonfinite_losses = 0;  // micro-batches of this rank
  std::int64_t nonfinite_layer = 0;   // of the first of them: ops::LossSums::nonfinite_layer
  NonFiniteReport own;                // before any reduction
  NonFiniteReport shard;              // in the aggregated shard
  std::uint32_t requests = kRequestNone;
  SaveProgress save = SaveProgress::kNone;  // of the checkpoint in flight
  std::int32_t contradicted_bucket =
      -1;             // verified steps: a bucket whose own slice changed in this rank's memory
  StepTiming timing;  // since this rank's last report; for people, never for a decision
};
static_assert(std::is_trivially_copyable_v<StepReport>);

}  // namespace lockstep::runtime
