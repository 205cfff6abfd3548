#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/log.h"
#include "core/memory.h"
#include "runtime/replay/extent.h"
#include "runtime/replay/replay_bundle.h"

namespace lockstep::runtime {

// Where values first were not finite, in the order in which the replay computes.
struct ReplayPlace {
  int rank = -1;                 // whose micro-batch
  std::int64_t micro_batch = 0;  // of the step, 0-based
  std::string tensor;            // an activation's name within its layer, or a parameter's
  std::int64_t sequence = -1;    // activations: in the global batch; -1: not an activation
  std::int64_t position = -1;    // activations: token of the sequence
  std::int64_t element = 0;      // activations: channel; gradients: element of the parameter
};

// The values of one layer over all micro-batches of the step.
struct ReplayExtent {
  std::string layer;  // "embeddings", "block.7", "head", or "head.2" when it is split
  Extent extent;      // `first` is not used
  ReplayPlace place;  // valid unless extent.finite()
};

// One number, as recorded and as computed again.
struct ReplayComparison {
  std::string name;       // "loss", "rank 2 loss_sum", ...
  double recorded = 0.0;  // NaN: not finite
  double replayed = 0.0;

  // The same bits, or both not finite.
  bool same() const;
  // |recorded - replayed| / |recorded|; infinite when only one is finite.
  double relative_difference() const;
};

// A finding that is not a number: which rank and tensor overflowed, which layer diverged.
struct ReplayFinding {
  std::string name;
  std::string recorded;
  std::string replayed;
};

struct ReplayResult {
  std::vector<ReplayExtent> weights;      // canonical order
  std::vector<ReplayExtent> activations;  // forward order
  std::vector<ReplayExtent> gradients;    // backward order; of micro-batches, before any reduction,
                                          // scaled by the loss scale
  std::vector<ReplayExtent> sums;         // backward order; of the aggregated gradient, likewise
  std::vector<ReplayComparison> numbers;  // loss and grad_norm first
  std::vector<ReplayFinding> findings;
  bool same_build = true;      // the bundle was written by this very build
  bool must_be_equal = false;  // run.reproducible: ranks, and the same build

  // What a replay owes: equal findings, and numbers with equal bits where must_be_equal, else
  // within `tolerance`. The step of a GPU is computed on the CPU and may differ by more.
  double tolerance = 1e-5;  // relative
  bool reproduced() const;
  bool all_same() const;  // the same bits everywhere
};

// Computes the step of a bundle again, in this process: the micro-batches of all ranks one after
// the other, with their drills, added up as the run adds them. Throws Error(kData) when weights or
// batch do not fit the configuration.
ReplayResult replay_step(const ReplayBundle& bundle, int threads, core::MemoryTracker& memory,
                         core::Logger& log);

}  // namespace lockstep::runtime
