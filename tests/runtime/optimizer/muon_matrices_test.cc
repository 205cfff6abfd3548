// Which matrices are Muon's, who iterates them, and how their slices travel.
#include "runtime/optimizer/muon_matrices.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "runtime/optimizer/muon_exchange.h"

namespace lockstep::runtime {
namespace {

models::ModelConfig model_of(models::Family family) {
  models::ModelConfig config = models::family_defaults(family);
  config.layers = 3;
  config.heads = 4;
  config.kv_heads = 2;
  config.width = 32;
  config.context = 8;
  config.vocab = 50;
  models::derive_sizes(config);
  return config;
}

std::vector<std::string> describe(const models::ModelConfig& config) {
  const models::ParameterTable table(config);
  std::vector<std::string> texts;
  for (const MuonMatrix& m : muon_matrices(config, table)) {
    if (table[m.parameter].group == 1)
      texts.push_back(table[m.parameter].name + " " + std::to_string(m.row_begin) + ": " +
                      std::to_string(m.rows) + " x " + std::to_string(m.cols));
  }
  return texts;
}

TEST(MuonMatrices, QueryKeyValueGateAndUpAreOneEach) {
  EXPECT_EQ(
      describe(model_of(models::Family::kGpt)),
      (std::vector<std::string>{
          "block.0.attention.qkv.weight 0: 32 x 32", "block.0.attention.qkv.weight 32: 16 x 32",
          "block.0.attention.qkv.weight 48: 16 x 32", "block.0.attention.out.weight 0: 32 x 32",
          "block.0.mlp.up.weight 0: 128 x 32", "block.0.mlp.down.weight 0: 32 x 128"}));
  EXPECT_EQ(describe(model_of(models::Family::kLlama)),
            (std::vector<std::string>{
                "block.0.attention.q.weight 0: 32 x 32", "block.0.attention.k.weight 0: 16 x 32",
                "block.0.attention.v.weight 0: 16 x 32", "block.0.attention.out.weight 0: 32 x 32",
                "block.0.mlp.gate.weight 0: 128 x 32", "block.0.mlp.up.weight 0: 128 x 32",
                "block.0.mlp.down.weight 0: 32 x 128"}));
}

// Longest processing time first: written out plainly.
TEST(MuonOwners, TheCostliestGoToTheLeastLoaded) {
  const models::ModelConfig config = model_of(models::Family::kGpt);
  const models::ParameterTable table(config);
  const std::vector<MuonMatrix> matrices = muon_matrices(config, table);
  for (const int ranks : {1, 2, 3, 4, 8, 64}) {
    const std::vector<int> owners = muon_owners(matrices, ranks);
    std::vector<std::int64_t> loads(static_cast<std::size_t>(ranks));
    std::vector<bool> taken(matrices.size());
    for (std::size_t n = 0; n < matrices.size(); ++n) {
      std::size_t next = matrices.size();
      for (std::size_t i = 0; i < matrices.size(); ++i) {
        if (taken[i]) continue;
        const auto key = [&](std::size_t j) {
          return std::pair(muon_cost(matrices[j]), matrices[j].elements());
        };
        if (next == matrices.size() || key(i) > key(next)) next = i;
      }
      taken[next] = true;
      const auto least = std::min_element(loads.begin(), loads.end()) - loads.begin();
      EXPECT_EQ(owners[next], least) << ranks << " ranks, matrix " << next;
      loads[static_cast<std::size_t>(least)] += muon_cost(matrices[next]);
    }
    const auto all = std::accumulate(loads.begin(), loads.end(), std::int64_t{0});
    const auto most = *std::max_element(loads.begin(), loads.end());
    EXPECT_DOUBLE_EQ(muon_imbalance(matrices, ranks),
                     static_cast<double>(most) * ranks / static_cast<double>(all));
  }
  EXPECT_LT(muon_imbalance(matrices, 3), 1.1);
}

// Every element of every matrix is updated by one rank, and comes to its owner at the place where
// the owner looks for it.
TEST(MuonExchange, EverySliceFindsItsPlace) {
  for (const auto family : {models::Family::kGpt, models::Family::kLlama}) {
    const models::ModelConfig config = model_of(family);
    const models::ParameterTable table(config);
    const std::vector<MuonMatrix> matrices = muon_matrices(config, table);
    for (const int ranks : {1, 2, 3, 4, 8, 64}) {
      const BucketLayout layout(table, config.tie_embeddings, ranks, 1 << 20, 4);
      std::map<std::pair<int, std::int64_t>, int> updated;  // by matrix and element
      std::vector<std::vector<std::pair<int, std::int64_t>>> held;
      std::vector<MuonExchange> plans;
      for (int r = 0; r < ranks; ++r) {
        plans.emplace_back(matrices, layout, false, r);
        const MuonExchange& plan = plans.back();
        EXPECT_EQ(plan.owners(), muon_owners(matrices, ranks));
        EXPECT_EQ(plan.elements(), plans.front().elements());
        held.emplace_back(static_cast<std::size_t>(plan.elements()), std::pair{-1, -1});
        for (const MuonExchange::Updated& each : plan.updated()) {
          for (std::int64_t i = 0; i < each.slice.count(); ++i) {
            const std::pair element{each.slice.matrix, each.slice.begin + i};
            ++updated[element];
            auto& place = held.back()[static_cast<std::size_t>(each.slice.place + i)];
            EXPECT_EQ(place.first, -1) << "two slices in one place";
            place = element;
          }
        }
      }
      std::size_t elements = 0;
      for (const MuonMatrix& matrix : matrices)
        elements += static_cast<std::size_t>(matrix.elements());
      EXPECT_EQ(updated.size(), elements);
      for (const auto& [element, times] : updated)
        ASSERT_EQ(times, 1);
      // all_to_all: part r of `gathered` is part `owner` of what rank r held.
      for (int owner = 0; owner < ranks; ++owner) {
        const auto count = plans.front().elements() / ranks;
        for (const auto& slices : plans[static_cast<std::size_t>(owner)].owned()) {
          std::int64_t covered = 0;
          for (const MuonSlice& slice : slices) {
            EXPECT_EQ(slice.matrix, slices.front().matrix);
            for (std::int64_t i = 0; i < slice.count(); ++i) {
              const std::int64_t from = (slice.place + i) / count;
              const std::int64_t at = owner * count + (slice.place + i) % count;
              ASSERT_EQ(held[static_cast<std::size_t>(from)][static_cast<std::size_t>(at)],
                        (std::pair{slice.matrix, slice.begin + i}));
              ++covered;
            }
          }
          EXPECT_EQ(covered, matrices[static_cast<std::size_t>(slices.front().matrix)].elements());
        }
      }
    }
  }
}

TEST(MuonExchange, WhereAllUpdateEverythingOwnersHoldWholeMatrices) {
  const models::ModelConfig config = model_of(models::Family::kGpt);
  const models::ParameterTable table(config);
  const std::vector<MuonMatrix> matrices = muon_matrices(config, table);
  for (const int ranks : {1, 3, 8}) {
    const BucketLayout layout(table, true, ranks, 1 << 20, 4);
    std::vector<std::int64_t> places(matrices.size(), -1);
    for (int r = 0; r < ranks; ++r) {
      const MuonExchange plan(matrices, layout, true, r);
      const std::int64_t count = plan.elements() / ranks;
      for (const auto& slices : plan.owned()) {
        ASSERT_EQ(slices.size(), 1U);
        const auto m = static_cast<std::size_t>(slices.front().matrix);
        EXPECT_EQ(slices.front().count(), matrices[m].elements());
        EXPECT_EQ(slices.front().place / count, r);
        places[m] = slices.front().place;
      }
    }
    const MuonExchange plan(matrices, layout, true, 0);
    for (const MuonExchange::Updated& each : plan.updated())
      EXPECT_EQ(each.slice.place,
                places[static_cast<std::size_t>(each.slice.matrix)] + each.slice.begin);
  }
}

}  // namespace
}  // namespace lockstep::runtime
