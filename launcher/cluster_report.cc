#include "launcher/cluster_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>

#include "core/error.h"

namespace lockstep::launcher {

namespace {

using runtime::ClusterSpec;
using runtime::StepPrediction;

// Above this share of the step the reports should travel along a tree.
constexpr double kDecisionShare = 0.01;

std::set<int> rank_counts(const ClusterSpec& cluster, int asked) {
  std::set<int> counts = {asked, static_cast<int>(cluster.most_ranks())};
  for (std::int64_t ranks = 1; ranks <= cluster.most_ranks(); ranks *= 2)
    counts.insert(static_cast<int>(ranks));
  return counts;
}

nlohmann::ordered_json to_json(const ClusterRow& row, const ClusterSpec& cluster) {
  nlohmann::ordered_json json = {{"ranks", row.ranks}, {"global_batch", row.global_batch}};
  if (!row.problem.empty()) {
    json["problem"] = row.problem;
    return json;
  }
  const StepPrediction& p = row.prediction;
  json.update({{"step_seconds", p.step_seconds},
               {"tokens_per_second", p.tokens_per_second},
               {"mfu", p.mfu > 0.0 ? nlohmann::ordered_json(p.mfu) : nlohmann::ordered_json()},
               {"forward_seconds", p.forward_seconds},
               {"backward_seconds", p.backward_seconds},
               {"update_seconds", p.update_seconds},
               {"reduce_seconds", p.reduce_seconds},
               {"gather_seconds", p.gather_seconds},
               {"exposed_seconds", p.exposed_seconds},
               {"hidden_seconds", p.hidden_seconds()},
               {"slowdown_seconds", p.slowdown_seconds},
               {"decision_seconds", p.decision_seconds},
               {"decision_tree_seconds", p.decision_tree_seconds},
               {"bytes_per_rank", p.bytes_per_rank},
               {"fits", p.fits(cluster)}});
  return json;
}

std::string table_line(const ClusterRow& row, const ClusterSpec& cluster) {
  const std::string head = fmt::format("{:>7}{:>10}", row.ranks, row.global_batch);
  if (!row.problem.empty()) return head + "  " + row.problem + "\n";
  const StepPrediction& p = row.prediction;
  constexpr double kMs = 1e3;
  const double gib = static_cast<double>(p.bytes_per_rank) / (1024.0 * 1024.0 * 1024.0);
  return head + fmt::format(
                    "{:>11.2f}{:>14.0f}{:>7}{:>10.2f}{:>9.2f}{:>9.2f}{:>10.3f}{:>9.3f}"
                    "{:>9.2f}{}\n",
                    p.step_seconds * kMs, p.tokens_per_second,
                    p.mfu > 0.0 ? fmt::format("{:.1f}", p.mfu * 100.0) : "-",
                    (p.forward_seconds + p.backward_seconds + p.update_seconds) * kMs,
                    p.hidden_seconds() * kMs, p.exposed_seconds * kMs, p.decision_seconds * kMs,
                    p.decision_tree_seconds * kMs, gib, p.fits(cluster) ? "" : "  does not fit");
}

void print_advice(const std::vector<ClusterRow>& rows, std::ostream& out) {
  for (const ClusterRow& row : rows) {
    const StepPrediction& p = row.prediction;
    if (!row.problem.empty() || p.decision_seconds < kDecisionShare * p.step_seconds ||
        p.decision_tree_seconds >= p.decision_seconds) {
      continue;
    }
    out << fmt::format(
        "\nFrom {} ranks on, the flat exchange of step reports takes more than {:.0f} % of the "
        "step; along a tree it would take {:.3f} ms instead of {:.3f} ms.\n",
        row.ranks, kDecisionShare * 100.0, p.decision_tree_seconds * 1e3, p.decision_seconds * 1e3);
    return;
  }
  out << fmt::format(
      "\nAt every number of ranks above, the flat exchange of step reports takes less than "
      "{:.0f} % of the step, or less than along a tree: no tree is needed.\n",
      kDecisionShare * 100.0);
}

}  // namespace

std::vector<ClusterRow> predict_cluster(const runtime::Config& config, const ClusterSpec& cluster,
                                        Scaling scaling, int asked) {
  std::vector<ClusterRow> rows;
  for (const int ranks : rank_counts(cluster, asked)) {
    runtime::Config at = config;
    if (scaling == Scaling::kWeak) at.batch.global = config.batch.global * ranks;
    ClusterRow row;
    row.ranks = ranks;
    row.global_batch = at.batch.global;
    if (at.batch.global % (at.batch.micro * ranks) != 0) {
      row.problem = fmt::format("batch.global {} is no multiple of batch.micro {} x {} ranks",
                                at.batch.global, at.batch.micro, ranks);
    } else {
      row.prediction = runtime::predict_step(at, cluster, ranks);
    }
    rows.push_back(row);
  }
  return rows;
}

void print_cluster(const std::vector<ClusterRow>& rows, const ClusterSpec& cluster,
                   OutputFormat format, std::ostream& out) {
  if (format == OutputFormat::kJson) {
    nlohmann::ordered_json json = {{"device", cluster.device.name}, {"predicted", true}};
    for (const ClusterRow& row : rows)
      json["rows"].push_back(to_json(row, cluster));
    out << json.dump() << "\n";
    return;
  }
  out << fmt::format(
      "Predicted, not measured: {} hosts x {} {}; times in ms, memory in GiB a rank.\n\n"
      "{:>7}{:>10}{:>11}{:>14}{:>7}{:>10}{:>9}{:>9}{:>10}{:>9}{:>9}\n",
      cluster.hosts, cluster.ranks_per_host, cluster.device.name, "ranks", "sequences", "step",
      "tokens/s", "MFU %", "compute", "hidden", "exposed", "decision", "(tree)", "memory");
  for (const ClusterRow& row : rows)
    out << table_line(row, cluster);
  print_advice(rows, out);
}

}  // namespace lockstep::launcher
