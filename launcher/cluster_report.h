#pragma once

#include <iosfwd>
#include <vector>

#include "launcher/command_context.h"
#include "runtime/simulate/step_simulation.h"

namespace lockstep::launcher {

// How the batch goes with the number of ranks: strong keeps batch.global, weak keeps the rounds of
// a rank (batch.global grows with the ranks).
enum class Scaling { kStrong, kWeak };

struct ClusterRow {
  int ranks = 1;
  std::int64_t global_batch = 0;
  runtime::StepPrediction prediction;  // meaningless with a problem
  std::string problem;                 // why this number of ranks cannot train it
};

// A row for 1, 2, 4, ... ranks up to all of the cluster's, and for `asked` ranks.
std::vector<ClusterRow> predict_cluster(const runtime::Config& config,
                                        const runtime::ClusterSpec& cluster, Scaling scaling,
                                        int asked);

void print_cluster(const std::vector<ClusterRow>& rows, const runtime::ClusterSpec& cluster,
                   OutputFormat format, std::ostream& out);

}  // namespace lockstep::launcher
