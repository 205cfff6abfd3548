#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "models/parameter_table.h"
#include "runtime/config/config.h"

namespace lockstep::runtime {

// What Newton-Schulz adds to a step, for people who choose a batch.
struct MuonCost {
  std::int64_t matrices = 0;
  double elements = 0.0;    // of all of them
  double flop = 0.0;        // of all ranks together, a step
  double model_flop = 0.0;  // forward and backward of the global batch, all ranks together
  double imbalance = 1.0;   // of the rank with most / mean (muon_imbalance())

  // Work of the busiest rank, as part of what it does for the model.
  double share() const { return flop * imbalance / model_flop; }
};

// Nothing unless optimizer.name is muon.
std::optional<MuonCost> muon_cost_of(const Config& config, const models::ParameterTable& table,
                                     int world_size);

// "Newton-Schulz: 24 matrices, 1.2 GFLOP a step, ..." in one line.
std::string describe(const MuonCost& cost);

}  // namespace lockstep::runtime
