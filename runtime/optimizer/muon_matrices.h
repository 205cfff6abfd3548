#pragma once

#include <cstdint>
#include <vector>

#include "models/model_config.h"
#include "models/parameter_table.h"

namespace lockstep::runtime {

// One matrix that Muon updates: rows [row_begin, row_begin + rows) of a parameter, [out, in]. The
// matrices of the blocks are Muon's; query, key and value are one each, also where a parameter
// holds all three. Embeddings, heads, norms, biases and gates are left to AdamW.
struct MuonMatrix {
  models::ParameterId parameter = models::kNoParameter;
  std::int64_t row_begin = 0;
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  std::int64_t elements() const { return rows * cols; }
  std::int64_t begin() const { return row_begin * cols; }  // first element, within the parameter
};

// In canonical order.
std::vector<MuonMatrix> muon_matrices(const models::ModelConfig& config,
                                      const models::ParameterTable& table);

// Multiplications and additions of one iteration of Newton-Schulz, which is what a matrix costs.
std::int64_t muon_cost(const MuonMatrix& matrix);

// The rank that iterates each matrix, the same on every rank: the costliest first (of equal cost
// the one with more elements, then the first in canonical order), each to the rank with the least
// cost so far, of those the lowest. The loads run over the whole model, for a block may hold fewer
// matrices than there are ranks.
std::vector<int> muon_owners(const std::vector<MuonMatrix>& matrices, int world_size);

// Cost of the rank that has most / mean cost of a rank; 1 is an even share.
double muon_imbalance(const std::vector<MuonMatrix>& matrices, int world_size);

}  // namespace lockstep::runtime
