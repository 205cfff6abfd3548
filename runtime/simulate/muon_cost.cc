#include "runtime/simulate/muon_cost.h"

#include <fmt/format.h>

#include "ops/muon.h"
#include "runtime/optimizer/muon_matrices.h"
#include "runtime/simulate/step_costs.h"

namespace lockstep::runtime {

std::optional<MuonCost> muon_cost_of(const Config& config, const models::ParameterTable& table,
                                     int world_size) {
  if (config.optimizer.name != ops::OptimizerKind::kMuon) return std::nullopt;
  const std::vector<MuonMatrix> matrices = muon_matrices(config.model, table);
  MuonCost cost;
  cost.matrices = static_cast<std::int64_t>(matrices.size());
  for (const MuonMatrix& matrix : matrices) {
    cost.elements += static_cast<double>(matrix.elements());
    cost.flop += ops::newton_schulz_flops(matrix.rows, matrix.cols, config.optimizer.muon.ns_steps);
  }
  cost.model_flop = flop_per_token(config, table) *
                    static_cast<double>(config.batch.global * config.model.context);
  cost.imbalance = muon_imbalance(matrices, world_size);
  return cost;
}

std::string describe(const MuonCost& cost) {
  return fmt::format(
      "Newton-Schulz: {} matrices, {:.3g} GFLOP a step on all ranks; the busiest rank has {:.2f} "
      "of "
      "the mean, which adds {:.3g} % to its forward and backward at this batch",
      cost.matrices, cost.flop / 1e9, cost.imbalance, 100.0 * cost.share());
}

}  // namespace lockstep::runtime
