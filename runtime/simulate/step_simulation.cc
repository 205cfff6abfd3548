#include "runtime/simulate/step_simulation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "runtime/config/tensor_rules.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/plan/run_plan.h"
#include "runtime/sharding/gradient_buckets.h"
#include "runtime/simulate/muon_cost.h"
#include "runtime/simulate/step_costs.h"
#include "runtime/step/step_report.h"

namespace lockstep::runtime {

namespace {

double seconds_to_send(double bytes, const LinkSpec& link) {
  return bytes / (link.gb_per_s * 1e9);
}

int hosts_of(const ClusterSpec& cluster, int ranks) {
  return (ranks + cluster.ranks_per_host - 1) / cluster.ranks_per_host;
}

// The slowest message between two ranks of the job.
const LinkSpec& longest_link(const ClusterSpec& cluster, int ranks) {
  return hosts_of(cluster, ranks) > 1 ? cluster.between_hosts : cluster.within_host;
}

// Two queues, as a device has them: one computes, one moves buckets. Without overlap both are one.
class Timeline {
 public:
  explicit Timeline(bool overlap) : overlap_(overlap) {}

  void compute(double seconds) {
    compute_ += seconds;
    if (!overlap_) moving_ = compute_;
  }
  // Starts when its input is there and the queue is free; returns when it ends.
  double move(double seconds) {
    moving_ = std::max(moving_, compute_) + seconds;
    if (!overlap_) {
      exposed_ += seconds;
      compute_ = moving_;
    }
    return moving_;
  }
  void wait_until(double time) {
    if (time <= compute_) return;
    exposed_ += time - compute_;
    compute_ = time;
  }
  void wait_for_moves() { wait_until(moving_); }

  double now() const { return compute_; }
  double exposed() const { return exposed_; }

 private:
  bool overlap_;
  double compute_ = 0.0;
  double moving_ = 0.0;
  double exposed_ = 0.0;
};

// One config at one number of ranks: durations of everything a step is made of.
class StepModel {
 public:
  StepModel(const Config& config, const ClusterSpec& cluster, int ranks)
      : config_(config),
        cluster_(cluster),
        ranks_(ranks),
        table_(parameter_table(config)),
        layout_(bucket_layout(config, table_, ranks)),
        plan_(gradient_plan(config, ranks)),
        work_(micro_batch_work(config, table_)),
        slots_(static_cast<std::size_t>(GradientBuckets::ring_slots(plan_))) {}

  StepPrediction predict() {
    Timeline line(overlaps());
    run_step(line);
    // The first step finds whole parameters; the second is like all that follow.
    const double begin = line.now();
    const double exposed = line.exposed();
    prediction_ = {};
    run_step(line);
    finish(line.now() - begin, line.exposed() - exposed);
    return prediction_;
  }

 private:
  bool overlaps() const { return cluster_.overlap && plan_.overlap; }

  double bucket_bytes(int bucket, core::DType dtype) const {
    return static_cast<double>(layout_[bucket].padded) * static_cast<double>(core::size_of(dtype));
  }

  double compute(const PartWork& work) const {
    return seconds_of(work, cluster_.device, config_.precision.compute);
  }

  double pass_over(double bytes) const { return bytes / (cluster_.device.memory_gb_per_s * 1e9); }

  double move(Timeline& line, double bytes, double& total) const {
    const double seconds = ring_seconds(cluster_, ranks_, bytes);
    total += seconds;
    return line.move(seconds);
  }

  void run_step(Timeline& line) {
    std::vector<double> whole = std::move(gathered_);
    whole.resize(static_cast<std::size_t>(layout_.size()), 0.0);
    std::fill(slots_.begin(), slots_.end(), 0.0);
    for (std::int64_t round = 0; round < plan_.rounds; ++round) {
      forward(line, whole);
      backward(line, round);
    }
    line.wait_for_moves();
    if (plan_.zero_stage == 0) {
      for (int bucket = layout_.size() - 1; bucket >= 0; --bucket)
        move(line, bucket_bytes(bucket, core::DType::kF32), prediction_.gather_seconds);
      line.wait_for_moves();
    }
    decide_and_update(line);
    gather(line);
  }

  void forward(Timeline& line, const std::vector<double>& whole) {
    std::size_t bucket = 0;
    for (std::size_t group = 0; group < work_.size(); ++group) {
      for (; bucket < whole.size() && group_of(bucket) == group; ++bucket)
        line.wait_until(whole[bucket]);
      const double seconds = compute(work_[group].forward);
      prediction_.forward_seconds += seconds;
      line.compute(seconds);
    }
  }

  std::size_t group_of(std::size_t bucket) const {
    return static_cast<std::size_t>(layout_[static_cast<int>(bucket)].spec.group);
  }

  // A group's computing is over when its first bucket is whole; a bucket needs a slot of the ring,
  // which is free once an earlier bucket has been reduced.
  void backward(Timeline& line, std::int64_t round) {
    std::size_t computed = work_.size();
    for (int bucket = layout_.size() - 1; bucket >= 0; --bucket) {
      double& slot = slots_[static_cast<std::size_t>(bucket) % slots_.size()];
      if (!plan_.keeps_full_gradient()) line.wait_until(slot);
      for (; computed > group_of(static_cast<std::size_t>(bucket)); --computed) {
        const double seconds = compute(work_[computed - 1].backward);
        prediction_.backward_seconds += seconds;
        line.compute(seconds);
      }
      slot = reduce(line, bucket, round);
    }
  }

  // The owner's sum reads the leaves and its fp32 shard and writes the shard; at the boundary every
  // rank adds each leaf to its own full gradient first.
  double reduce(Timeline& line, int bucket, std::int64_t round) {
    const auto elements = static_cast<double>(layout_[bucket].padded);
    const auto leaf = static_cast<double>(core::size_of(plan_.compute));
    const bool last = round + 1 == plan_.rounds;
    double bytes = 0.0;
    if (plan_.boundary()) bytes += elements * (8.0 + leaf);
    if (!plan_.boundary() || last) {
      bytes += elements / ranks_ * 8.0;
    }
    const double seconds = pass_over(bytes);
    prediction_.backward_seconds += seconds;
    line.compute(seconds);
    if (plan_.boundary() && !last) return line.now();
    return move(line, bucket_bytes(bucket, plan_.wire), prediction_.reduce_seconds);
  }

  void decide_and_update(Timeline& line) {
    const double decision = flat_decision_seconds(cluster_, ranks_);
    prediction_.decision_seconds += decision;
    line.compute(decision);
    const std::int64_t updated =
        plan_.zero_stage == 0 ? layout_.flat_elements() : layout_.shard_total();
    const double update =
        pass_over(update_bytes_per_element(config_) * static_cast<double>(updated)) + iterations();
    prediction_.update_seconds += update;
    line.compute(update);
  }

  // Newton-Schulz on the busiest rank, and its matrices in fp32 to their owners and back.
  double iterations() const {
    const auto cost = muon_cost_of(config_, table_, ranks_);
    if (!cost) return 0.0;
    const double given = cluster_.device.matmul_tflops[rate_index(config_.optimizer.muon.ns_dtype)];
    const double rate =
        given > 0.0 ? given : cluster_.device.matmul_tflops[rate_index(config_.precision.compute)];
    const int ways = plan_.zero_stage == 0 ? 1 : 2;
    return cost->flop * cost->imbalance / ranks_ / (rate * 1e12) +
           ways * ring_seconds(cluster_, ranks_, cost->elements * sizeof(float));
  }

  void gather(Timeline& line) {
    gathered_.assign(static_cast<std::size_t>(layout_.size()), 0.0);
    if (plan_.zero_stage == 0) return;
    for (int bucket = 0; bucket < layout_.size(); ++bucket) {
      gathered_[static_cast<std::size_t>(bucket)] =
          move(line, bucket_bytes(bucket, plan_.compute), prediction_.gather_seconds);
    }
  }

  void finish(double seconds, double exposed) {
    prediction_.ranks = ranks_;
    prediction_.exposed_seconds =
        std::min(exposed, prediction_.reduce_seconds + prediction_.gather_seconds);
    prediction_.slowdown_seconds = cluster_.overlap_slowdown * prediction_.hidden_seconds();
    prediction_.step_seconds = seconds + prediction_.slowdown_seconds;
    prediction_.decision_tree_seconds = tree_decision_seconds(cluster_, ranks_);
    const double tokens = static_cast<double>(config_.batch.global * config_.model.context);
    prediction_.tokens_per_second = tokens / prediction_.step_seconds;
    const double peak =
        cluster_.device.peak_tflops[rate_index(config_.precision.compute)] * 1e12 * ranks_;
    if (peak > 0.0) {
      prediction_.mfu = flop_per_token(config_, table_) * prediction_.tokens_per_second / peak;
    }
    prediction_.bytes_per_rank = plan_memory(config_, ranks_, 1).total();
  }

  const Config& config_;
  const ClusterSpec& cluster_;
  int ranks_;
  models::ParameterTable table_;
  BucketLayout layout_;
  GradientPlan plan_;
  std::vector<GroupWork> work_;
  StepPrediction prediction_;
  std::vector<double> gathered_;  // by bucket: when the parameters are whole
  std::vector<double> slots_;     // of the ring: when each is free again
};

void check_rates(const Config& config, const ClusterSpec& cluster, int ranks) {
  const int index = rate_index(config.precision.compute);
  if (cluster.device.matmul_tflops[index] <= 0.0 || cluster.device.attention_tflops[index] <= 0.0) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("the cluster's device '{}' has no rates for {}; give "
                                  "device.matmul_tflops and device.attention_tflops of that type",
                                  cluster.device.name, core::name_of(config.precision.compute)));
  }
  if (ranks > cluster.most_ranks()) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("{} ranks were asked for; the cluster has {} hosts x {} = {}", ranks,
                    cluster.hosts, cluster.ranks_per_host, cluster.most_ranks()));
  }
}

}  // namespace

double ring_seconds(const ClusterSpec& cluster, int ranks, double bytes) {
  if (ranks == 1) return 0.0;
  const double share = bytes * (ranks - 1) / ranks;
  const int hosts = hosts_of(cluster, ranks);
  double seconds = seconds_to_send(share, cluster.within_host);
  if (hosts > 1) seconds = std::max(seconds, seconds_to_send(share, cluster.between_hosts));
  const int between = hosts > 1 ? hosts : 0;
  const int within = ranks - 1 - std::min(between, ranks - 1);
  return seconds + (within * cluster.within_host.latency_us +
                    std::min(between, ranks - 1) * cluster.between_hosts.latency_us) *
                       1e-6;
}

double flat_decision_seconds(const ClusterSpec& cluster, int ranks) {
  const double decide = cluster.decide_us_per_report * 1e-6 * ranks;
  if (ranks == 1) return decide;
  const LinkSpec& link = longest_link(cluster, ranks);
  const double bytes = static_cast<double>(sizeof(StepReport)) * (ranks - 1);
  // Ranks of a host share its way out.
  const double sharers = hosts_of(cluster, ranks) > 1 ? cluster.ranks_per_host : 1;
  return decide + link.latency_us * 1e-6 * std::ceil(std::log2(ranks)) +
         seconds_to_send(bytes * sharers, link);
}

double tree_decision_seconds(const ClusterSpec& cluster, int ranks) {
  if (ranks == 1) return cluster.decide_us_per_report * 1e-6;
  const LinkSpec& link = longest_link(cluster, ranks);
  const double levels = 2.0 * std::ceil(std::log2(ranks));
  return levels * (link.latency_us * 1e-6 + seconds_to_send(sizeof(StepReport), link) +
                   2.0 * cluster.decide_us_per_report * 1e-6);
}

StepPrediction predict_step(const Config& config, const ClusterSpec& cluster, int ranks) {
  check_rates(config, cluster, ranks);
  return StepModel(config, cluster, ranks).predict();
}

}  // namespace lockstep::runtime
