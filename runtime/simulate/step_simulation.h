#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/config/config.h"
#include "runtime/simulate/cluster_spec.h"

namespace lockstep::runtime {

// What a step of a config is predicted to cost on N ranks of a cluster: a simulation of the step's
// own order of events (docs/architecture.md, "One step"), bucket by bucket, with one queue for
// computing and one for collectives. Nothing of it is measured here.
struct StepPrediction {
  int ranks = 1;
  double step_seconds = 0.0;
  double forward_seconds = 0.0;  // computing only, all rounds
  double backward_seconds = 0.0;
  double update_seconds = 0.0;  // norm and optimizer, of what one rank updates
  double reduce_seconds = 0.0;  // on the queue of collectives
  double gather_seconds = 0.0;
  double exposed_seconds = 0.0;        // of reduce and gather: in which nothing is computed
  double slowdown_seconds = 0.0;       // computing made slower by collectives beside it
  double decision_seconds = 0.0;       // exchange of the reports and the decision itself
  double decision_tree_seconds = 0.0;  // were the reports merged pairwise up and down a tree
  double tokens_per_second = 0.0;
  double mfu = 0.0;  // flop_per_token * tokens/s / (ranks * peak); 0 when no peak is given
  std::size_t bytes_per_rank = 0;  // memory plan of rank 0

  double hidden_seconds() const { return reduce_seconds + gather_seconds - exposed_seconds; }
  bool fits(const ClusterSpec& cluster) const {
    return static_cast<double>(bytes_per_rank) <=
           cluster.device.memory_gib * 1024.0 * 1024.0 * 1024.0;
  }
};

// Seconds of a reduce-scatter or all-gather of `bytes` in all (of the whole bucket), over a ring of
// the first `ranks` ranks: (N-1)/N * bytes over the slowest way on it, and N-1 hops.
double ring_seconds(const ClusterSpec& cluster, int ranks, double bytes);

// Seconds until every rank has every rank's report and has decided. Flat, as it is done: each rank
// receives N-1 reports and reads N. Tree: 2 log2(N) messages of one report, two reports read at
// each.
double flat_decision_seconds(const ClusterSpec& cluster, int ranks);
double tree_decision_seconds(const ClusterSpec& cluster, int ranks);

// Throws Error(kConfig) when the global batch does not divide among the ranks, or the cluster has
// no rate for the config's compute type.
StepPrediction predict_step(const Config& config, const ClusterSpec& cluster, int ranks);

}  // namespace lockstep::runtime
