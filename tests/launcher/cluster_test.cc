#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "launcher/cluster_file.h"
#include "launcher/cluster_report.h"
#include "runtime/config/load_config.h"

namespace lockstep::launcher {
namespace {

constexpr const char* kCluster = R"(
device:
  memory_gib: 1
  memory_gb_per_s: 10
  matmul_tflops: {fp32: 0.1}
  attention_tflops: {fp32: 0.1}
network:
  hosts: 5000
  ranks_per_host: 2
  within_host: {gb_per_s: 5, latency_us: 10}
  between_hosts: {gb_per_s: 1, latency_us: 100}
  decide_us_per_report: 1
)";

runtime::Config small_config() {
  return runtime::parse_config(
      "model: {family: gpt, layers: 2, heads: 2, width: 64, context: 32, vocab: 320}\n"
      "data: {train: train.bin, validation: train.bin}\n"
      "batch: {global: 2, micro: 2}\ntrain: {steps: 10}\noptimizer: {learning_rate: 1e-3}\n",
      "test.yaml");
}

std::string problems_of(const std::string& text) {
  try {
    parse_cluster(text, "cluster.yaml");
  } catch (const core::Error& error) {
    return error.what();
  }
  return "";
}

TEST(ClusterFile, NamesEveryProblemWithItsPlace) {
  EXPECT_EQ(problems_of(kCluster), "");
  const std::string missing = problems_of("device: {memory_gib: 1}\n");
  EXPECT_NE(missing.find("device.memory_gb_per_s"), std::string::npos) << missing;
  EXPECT_NE(missing.find("device.matmul_tflops"), std::string::npos) << missing;
  const std::string wrong = problems_of("device: {memori_gib: 1}\nnetwork: {hosts: 0}\n");
  EXPECT_NE(wrong.find("cluster.yaml:1:10"), std::string::npos) << wrong;
  EXPECT_NE(wrong.find("did you mean 'memory_gib'"), std::string::npos) << wrong;
  EXPECT_NE(wrong.find("network.hosts"), std::string::npos) << wrong;
  const std::string useless =
      problems_of(std::string(kCluster) + "  overlap: false\n  overlap_slowdown: 0.1\n");
  EXPECT_NE(useless.find("no effect"), std::string::npos) << useless;
}

TEST(ClusterFile, ReadsTheOnesOfTheTree) {
  const runtime::ClusterSpec cluster =
      load_cluster(std::string(std::getenv("LOCKSTEP_SOURCE_DIR")) + "/configs/clusters/h200.yaml");
  EXPECT_EQ(cluster.most_ranks(), 10'000);
}

TEST(ClusterReport, PredictsUpToAllRanksAndSaysWhenATreeIsNeeded) {
  const runtime::ClusterSpec cluster = parse_cluster(kCluster, "cluster.yaml");
  const std::vector<ClusterRow> rows = predict_cluster(small_config(), cluster, Scaling::kWeak, 3);
  ASSERT_EQ(rows.back().ranks, 10'000);
  EXPECT_EQ(rows.back().global_batch, 20'000);
  EXPECT_EQ(rows[2].ranks, 3);
  for (const ClusterRow& row : rows)
    EXPECT_EQ(row.problem, "") << row.ranks;
  std::ostringstream text;
  print_cluster(rows, cluster, OutputFormat::kTable, text);
  EXPECT_NE(text.str().find("Predicted, not measured"), std::string::npos);
  EXPECT_NE(text.str().find("along a tree"), std::string::npos) << text.str();
}

TEST(ClusterReport, SaysWhichRanksABatchDoesNotFit) {
  const runtime::ClusterSpec cluster = parse_cluster(kCluster, "cluster.yaml");
  const std::vector<ClusterRow> rows =
      predict_cluster(small_config(), cluster, Scaling::kStrong, 1);
  EXPECT_EQ(rows[0].problem, "");
  EXPECT_NE(rows[1].problem.find("batch.global 2"), std::string::npos);
  std::ostringstream text;
  print_cluster(rows, cluster, OutputFormat::kJson, text);
  const auto json = nlohmann::json::parse(text.str());
  EXPECT_TRUE(json["rows"][1].contains("problem"));
  EXPECT_GT(json["rows"][0]["step_seconds"].get<double>(), 0.0);
  EXPECT_TRUE(json["predicted"].get<bool>());
}

}  // namespace
}  // namespace lockstep::launcher
