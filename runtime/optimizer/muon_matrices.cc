#include "runtime/optimizer/muon_matrices.h"

#include <algorithm>
#include <numeric>
#include <string>

namespace lockstep::runtime {

namespace {

// The rows of a parameter that make a matrix each.
std::vector<std::int64_t> row_counts(const models::ModelConfig& config,
                                     const models::ParameterSpec& spec) {
  if (spec.name.ends_with(".attention.qkv.weight")) {
    const std::int64_t query = spec.shape[0] - 2 * config.kv_width();
    return {query, config.kv_width(), config.kv_width()};
  }
  return {spec.shape[0]};
}

std::vector<std::int64_t> loads_of(const std::vector<MuonMatrix>& matrices,
                                   const std::vector<int>& owners, int world_size) {
  std::vector<std::int64_t> loads(static_cast<std::size_t>(world_size));
  for (std::size_t i = 0; i < matrices.size(); ++i)
    loads[static_cast<std::size_t>(owners[i])] += muon_cost(matrices[i]);
  return loads;
}

}  // namespace

std::vector<MuonMatrix> muon_matrices(const models::ModelConfig& config,
                                      const models::ParameterTable& table) {
  std::vector<MuonMatrix> matrices;
  for (models::ParameterId id = 0; id < table.size(); ++id) {
    const models::ParameterSpec& spec = table[id];
    const bool of_block = spec.group > 0 && spec.group < table.groups() - 1;
    if (!of_block || spec.frozen || spec.role != models::ParameterRole::kLinearWeight) continue;
    std::int64_t row = 0;
    for (const std::int64_t rows : row_counts(config, spec)) {
      matrices.push_back({id, row, rows, spec.shape[1]});
      row += rows;
    }
  }
  return matrices;
}

std::int64_t muon_cost(const MuonMatrix& matrix) {
  const std::int64_t s = std::min(matrix.rows, matrix.cols);
  const std::int64_t l = std::max(matrix.rows, matrix.cols);
  return s * s * (4 * l + 2 * s);
}

std::vector<int> muon_owners(const std::vector<MuonMatrix>& matrices, int world_size) {
  std::vector<std::size_t> order(matrices.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const std::int64_t cost_a = muon_cost(matrices[a]);
    const std::int64_t cost_b = muon_cost(matrices[b]);
    if (cost_a != cost_b) return cost_a > cost_b;
    if (matrices[a].elements() != matrices[b].elements())
      return matrices[a].elements() > matrices[b].elements();
    return a < b;
  });
  std::vector<std::int64_t> loads(static_cast<std::size_t>(world_size));
  std::vector<int> owners(matrices.size());
  for (const std::size_t i : order) {
    const auto least = std::min_element(loads.begin(), loads.end());
    *least += muon_cost(matrices[i]);
    owners[i] = static_cast<int>(least - loads.begin());
  }
  return owners;
}

double muon_imbalance(const std::vector<MuonMatrix>& matrices, int world_size) {
  const auto loads = loads_of(matrices, muon_owners(matrices, world_size), world_size);
  const auto all = std::accumulate(loads.begin(), loads.end(), std::int64_t{0});
  if (all == 0) return 1.0;
  const auto most = static_cast<double>(*std::max_element(loads.begin(), loads.end()));
  return most * world_size / static_cast<double>(all);
}

}  // namespace lockstep::runtime
