#include "runtime/simulate/step_simulation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "runtime/config/load_config.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/simulate/step_costs.h"
#include "runtime/step/step_report.h"

namespace lockstep::runtime {
namespace {

Config config_with(const std::vector<std::string>& overrides = {}) {
  constexpr const char* kText = R"(
model: {family: gpt, layers: 3, heads: 2, width: 64, context: 32, vocab: 320}
data: {train: train.bin, validation: train.bin}
batch: {global: 16, micro: 2}
train: {steps: 10}
optimizer: {learning_rate: 1e-3}
)";
  return parse_config(kText, "test.yaml", overrides);
}

// Round numbers, so that times can be worked out by hand.
ClusterSpec simple_cluster() {
  ClusterSpec cluster;
  cluster.device.name = "test";
  cluster.device.memory_gib = 1.0;
  cluster.device.memory_gb_per_s = 10.0;
  for (int i = 0; i < 3; ++i)
    cluster.device.matmul_tflops[i] = cluster.device.attention_tflops[i] = 0.1;
  cluster.hosts = 4;
  cluster.ranks_per_host = 2;
  cluster.within_host = {5.0, 10.0};
  cluster.between_hosts = {1.0, 100.0};
  cluster.overlap = true;
  cluster.decide_us_per_report = 1.0;
  return cluster;
}

double compute_seconds(const StepPrediction& p) {
  return p.forward_seconds + p.backward_seconds + p.update_seconds;
}

TEST(RingSeconds, SendsAllButOneShareOverTheSlowestWay) {
  const ClusterSpec cluster = simple_cluster();
  EXPECT_EQ(ring_seconds(cluster, 1, 1e9), 0.0);
  EXPECT_NEAR(ring_seconds(cluster, 2, 1e9), 0.5 / 5.0 + 10e-6, 1e-12);
  // Four ranks on two hosts: two of the three hops are between hosts.
  EXPECT_NEAR(ring_seconds(cluster, 4, 1e9), 0.75 / 1.0 + 10e-6 + 200e-6, 1e-12);
}

TEST(StepSimulation, OneRankOnlyComputes) {
  const StepPrediction p = predict_step(config_with(), simple_cluster(), 1);
  EXPECT_EQ(p.reduce_seconds, 0.0);
  EXPECT_EQ(p.gather_seconds, 0.0);
  EXPECT_EQ(p.exposed_seconds, 0.0);
  EXPECT_NEAR(p.step_seconds, compute_seconds(p) + p.decision_seconds, 1e-12);
  EXPECT_NEAR(p.tokens_per_second, 16.0 * 32.0 / p.step_seconds, 1e-6);
}

// Independently of the tables: weights of a block are 12 C^2 (+ the tied head's V C), products are
// 6 flop a weight and token, attention is 14 N T C, half of it for causal models.
TEST(StepSimulation, CountsTheProductsOfTheModel) {
  const Config config = config_with();
  const models::ParameterTable table(config.model);
  const double tokens = 2.0 * 32.0;
  double products = 0.0;
  double attention = 0.0;
  for (const GroupWork& group : micro_batch_work(config, table)) {
    products += group.forward.matmul_flop + group.backward.matmul_flop;
    attention += group.forward.attention_flop + group.backward.attention_flop;
  }
  EXPECT_EQ(products, 6.0 * tokens * (3.0 * 12.0 * 64.0 * 64.0 + 320.0 * 64.0));
  EXPECT_EQ(attention, 3.0 * 14.0 * tokens * 32.0 * 64.0 / 2.0);
}

void expect_all_exposed(const StepPrediction& p) {
  EXPECT_GT(p.reduce_seconds, 0.0);
  EXPECT_GT(p.gather_seconds, 0.0);
  EXPECT_NEAR(p.exposed_seconds, p.reduce_seconds + p.gather_seconds, 1e-9);
  EXPECT_NEAR(p.step_seconds, compute_seconds(p) + p.exposed_seconds + p.decision_seconds, 1e-9);
}

// Neither where the cluster cannot nor where the configuration will not.
TEST(StepSimulation, WithoutOverlapEverythingThatMovesIsExposed) {
  ClusterSpec cluster = simple_cluster();
  cluster.overlap_slowdown = 0.5;  // of what would be hidden
  for (const char* stage : {"parallel.zero_stage=0", "parallel.zero_stage=2"})
    expect_all_exposed(predict_step(config_with({"parallel.overlap=false", stage}), cluster, 4));
  cluster.overlap = false;
  expect_all_exposed(predict_step(config_with(), cluster, 4));
}

TEST(StepSimulation, OverlapHidesWhatComputingCovers) {
  ClusterSpec fast = simple_cluster();
  fast.within_host = fast.between_hosts = {1e5, 0.0};
  const StepPrediction hidden = predict_step(config_with(), fast, 4);
  EXPECT_LT(hidden.exposed_seconds, 0.01 * hidden.step_seconds);

  ClusterSpec slow = simple_cluster();
  slow.within_host = slow.between_hosts = {1e-3, 0.0};
  const StepPrediction exposed = predict_step(config_with(), slow, 4);
  EXPECT_GT(exposed.exposed_seconds, 0.9 * (exposed.reduce_seconds + exposed.gather_seconds));
  // The queue of collectives is never idle then: a step cannot be shorter than what it moves.
  EXPECT_GE(exposed.step_seconds, exposed.reduce_seconds);
}

TEST(StepSimulation, CollectivesBesideComputingSlowItDown) {
  ClusterSpec cluster = simple_cluster();
  const StepPrediction without = predict_step(config_with(), cluster, 2);
  cluster.overlap_slowdown = 0.5;
  const StepPrediction with = predict_step(config_with(), cluster, 2);
  EXPECT_NEAR(with.step_seconds - without.step_seconds, 0.5 * without.hidden_seconds(), 1e-12);
  EXPECT_GT(without.hidden_seconds(), 0.0);
}

// every_round reduces each of the 4 rounds of 2 ranks, the boundary once.
TEST(StepSimulation, ReducesAsOftenAsGradSyncSays) {
  const ClusterSpec cluster = simple_cluster();
  const StepPrediction every =
      predict_step(config_with({"parallel.grad_sync=every_round"}), cluster, 2);
  const StepPrediction once =
      predict_step(config_with({"parallel.grad_sync=boundary"}), cluster, 2);
  EXPECT_NEAR(every.reduce_seconds, 4.0 * once.reduce_seconds, 1e-9);
}

TEST(StepSimulation, StageZeroGathersSumsAndUpdatesEverything) {
  const ClusterSpec cluster = simple_cluster();
  const StepPrediction zero = predict_step(config_with({"parallel.zero_stage=0"}), cluster, 2);
  const StepPrediction two = predict_step(config_with({"parallel.zero_stage=2"}), cluster, 2);
  EXPECT_NEAR(zero.update_seconds, 2.0 * two.update_seconds, 1e-9);
  EXPECT_GT(zero.gather_seconds, 0.0);
}

TEST(StepSimulation, TellsTheMemoryOfThePlan) {
  const Config config = config_with();
  EXPECT_EQ(predict_step(config, simple_cluster(), 4).bytes_per_rank,
            plan_memory(config, 4, 1).total());
}

TEST(StepDecisionCost, GrowsWithTheRanksFlatAndWithTheirLogarithmAlongATree) {
  ClusterSpec cluster = simple_cluster();
  cluster.hosts = 8192;
  const double report = static_cast<double>(sizeof(StepReport));
  EXPECT_NEAR(flat_decision_seconds(cluster, 2), 2e-6 + 10e-6 + report / 5e9, 1e-12);
  EXPECT_NEAR(flat_decision_seconds(cluster, 8192),
              8192e-6 + 13 * 100e-6 + 8191.0 * report * 2.0 / 1e9, 1e-9);
  EXPECT_NEAR(tree_decision_seconds(cluster, 8192), 26.0 * (100e-6 + report / 1e9 + 2e-6), 1e-9);
}

TEST(StepSimulation, RefusesWhatTheClusterCannotSay) {
  ClusterSpec cluster = simple_cluster();
  EXPECT_THROW(predict_step(config_with(), cluster, 9), core::Error);
  cluster.device.matmul_tflops[1] = 0.0;
  EXPECT_THROW(predict_step(config_with({"precision.compute=bf16"}), cluster, 2), core::Error);
}

}  // namespace
}  // namespace lockstep::runtime
