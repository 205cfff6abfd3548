#pragma once

#include <cstdint>
#include <vector>

#include "core/log.h"
#include "core/tensor.h"
#include "models/parameter_table.h"
#include "ops/op_context.h"
#include "runtime/config/config.h"
#include "runtime/sharding/bucket_layout.h"

namespace lockstep::runtime {

// The drills of the `fault:` section, for one rank. Each fires whenever its step (attempt, from 1)
// is computed.
class FaultInjector {
 public:
  FaultInjector(std::vector<FaultConfig> faults, int rank, core::Logger& log);

  // kNan: the block whose forward output gets a NaN in this step; -1 when none.
  int poisoned_block(std::int64_t step) const;

  // kOverflow: puts +inf into one element of the block's own gradient (any floating dtype). To be
  // called once, in the last round, before the reduction; does nothing unless a fault names this
  // step and block.
  void overflow_gradient(std::int64_t step, int block, core::TensorView gradient,
                         ops::OpContext& context) const;

  // The same for a whole bucket: where the drill puts it into the gradient of a block. leaf:
  // [padded], any floating dtype; buckets that are no blocks stay as they are.
  void overflow_bucket(std::int64_t step, const models::ParameterTable& table,
                       const BucketPlacement& bucket, core::TensorView leaf,
                       ops::OpContext& context) const;

  // kBitflip: the block in whose parameters a bit is to be flipped before this step; -1 when none.
  int flipped_block(std::int64_t step) const;

  // kSlow: sleeps kSlowSeconds in this step.
  void slow_down(std::int64_t step) const;

  static constexpr double kSlowSeconds = 1.0;

  // kOom: throws std::bad_alloc, as an allocation that fails.
  void exhaust_memory(std::int64_t step) const;

  // kThrow: throws std::runtime_error, as a bug would, between two collectives. Only in a run's
  // first attempt.
  void throw_if_asked(std::int64_t step) const;

  // kKill: ends this process by SIGKILL; kHang: never returns. Both only in a run's first attempt.
  void kill_or_hang(std::int64_t step) const;
  void set_attempt(std::int64_t attempt) { attempt_ = attempt; }

 private:
  const FaultConfig* find(FaultKind kind, std::int64_t step) const;

  std::vector<FaultConfig> faults_;  // of this rank
  std::int64_t attempt_ = 1;
  core::Logger& log_;
};

// Flips a low mantissa bit of the first element: a different value, yet too small a change to show
// in the loss.
void flip_bit(core::TensorView values, ops::OpContext& context);

}  // namespace lockstep::runtime
