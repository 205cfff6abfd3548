#include "runtime/plan/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "models/transformer.h"
#include "models/workspace.h"
#include "ops/cpu/scratch_sizes.h"
#include "runtime/checkpoint/snapshot.h"
#include "runtime/config/tensor_rules.h"
#include "runtime/device/backend_device.h"
#include "runtime/health/layer_statistics.h"
#include "runtime/health/parameter_guard.h"
#include "runtime/optimizer/muon_update.h"
#include "runtime/plan/run_plan.h"
#include "runtime/sharding/gradient_norm.h"
#include "runtime/sharding/kept_parameters.h"
#include "runtime/step/device_decision.h"

namespace lockstep::runtime {

namespace {

double mebibytes(std::size_t bytes) {
  return static_cast<double>(bytes) / 1048576.0;
}

// (N-1)/N of the padded elements: what a rank sends in one reduce-scatter or all-gather of
// everything.
std::size_t wire_bytes(const BucketLayout& layout, core::DType dtype) {
  const std::int64_t elements = layout.flat_elements() - layout.shard_total();
  return static_cast<std::size_t>(elements) * core::size_of(dtype);
}

// Of the search for what is not finite in a tensor's leaf, and of its sum of squares.
std::size_t gradient_scratch(std::int64_t elements) {
  namespace cpu = ops::cpu;
  constexpr std::int64_t kBlock = ops::kNormBlock;
  const auto blocks = static_cast<std::size_t>((elements + kBlock - 1) / kBlock);
  return std::max(cpu::count_nonfinite_scratch(1, elements, true),
                  cpu::sums_of_squares_scratch(blocks));
}

// The greatest request of the model's ops and of what looks at every parameter's gradient.
std::size_t workspace_bytes(const Config& config, const models::ParameterTable& table,
                            const BucketLayout& layout, int threads) {
  if (config.backend.device == DeviceChoice::kCuda) {
    const std::size_t ops =
        models::device_workspace_bytes(config.model, table, config.precision.compute,
                                       config.batch.micro, context_determinism(config));
    return config.parallel.verify_every == 0
               ? ops
               : std::max(ops, guard_memory(table, layout, config.precision.compute).scratch);
  }
  std::size_t bytes = models::workspace_bytes(config.model, table, config.precision.compute,
                                              config.batch.micro, layout.specs(), threads);
  for (const models::ParameterSpec& spec : table.specs()) {
    if (!spec.frozen) bytes = std::max(bytes, gradient_scratch(spec.elements()));
  }
  if (config.optimizer.name == ops::OptimizerKind::kMuon)
    bytes = std::max(bytes, MuonUpdate::scratch_bytes(config, table, threads));
  return bytes;
}

bool measures_layers(const Config& config) {
  return LayerStatistics::wanted(config) && config.backend.device != DeviceChoice::kCuda;
}

// What a step's ops leave for the host to read beside the model's own: losses by round, counts of
// what is not finite, sums of squares; and what a device decides from them.
std::size_t result_bytes(const Config& config, const models::ParameterTable& table,
                         const BucketLayout& layout, int rank) {
  const GradientPlan plan = gradient_plan(config, layout.world_size());
  const bool watches = config.parallel.verify_every > 0;
  const std::size_t hashes =
      watches ? guard_memory(table, layout, config.precision.compute).results : 0;
  const std::size_t decision =
      config.backend.device == DeviceChoice::kCuda
          ? DeviceDecision::result_bytes(decision_rules(config), layout.world_size(), table.size())
          : 0;
  const std::size_t layers =
      measures_layers(config) ? LayerStatistics::result_bytes(layout, rank) : 0;
  return hashes + decision + layers +
         static_cast<std::size_t>(plan.rounds) * sizeof(ops::LossSums) +
         NonFiniteSearch::bytes(layout, plan.rounds) + ShardNorm::bytes(layout, rank);
}

// At most: what a device is told once of where things lie, for hashes and for updates.
std::size_t table_bytes(const Config& config, const models::ParameterTable& table,
                        const BucketLayout& layout) {
  constexpr std::size_t kSpan = sizeof(ops::UpdateSpan);
  constexpr std::size_t kTile = sizeof(ops::UpdateTile);
  const bool muon = config.optimizer.name == ops::OptimizerKind::kMuon;
  const std::size_t matrices = muon ? muon_matrices(config.model, table).size() : 0;
  const std::size_t runs = static_cast<std::size_t>(table.size() + layout.size()) + 2 * matrices;
  const auto tiles =
      static_cast<std::size_t>(layout.flat_elements() / ops::UpdateTile::kElements) + runs;
  std::size_t update = runs * (kSpan + sizeof(float)) + tiles * kTile;
  if (config.ema.decay > 0.0) update += runs * kSpan + tiles * kTile + sizeof(float);
  const std::size_t decision = DeviceDecision::table_bytes(decision_rules(config), runs);
  return update + decision + matrices * sizeof(float) +
         (config.parallel.verify_every == 0
              ? 0
              : guard_memory(table, layout, config.precision.compute).tables);
}

}  // namespace

std::size_t MemoryPlan::device_bytes() const {
  std::size_t sum = 0;
  for (const PlannedRegion& region : regions)
    sum += region.on_device ? region.bytes : 0;
  return sum;
}

std::size_t MemoryPlan::host_bytes() const {
  std::size_t sum = 0;
  for (const PlannedRegion& region : regions)
    sum += region.on_device ? 0 : region.bytes;
  return sum;
}

MemoryPlan plan_memory(const Config& config, int world_size, int threads, int rank) {
  const models::ParameterTable table = parameter_table(config);
  const BucketLayout layout = bucket_layout(config, table, world_size);
  const GradientPlan gradients = gradient_plan(config, world_size);
  const core::DType compute = config.precision.compute;
  const int states = state_tensors(config.optimizer);

  MemoryPlan plan;
  plan.world_size = world_size;
  plan.zero_stage = config.parallel.zero_stage;
  plan.grad_sync = config.parallel.grad_sync;
  plan.regions.push_back({"parameters", ModelState::parameter_bytes(layout, compute)});
  plan.regions.push_back({"optimizer", ModelState::optimizer_bytes(
                                           layout, compute, config.parallel.zero_stage, states)});
  const bool averages = config.ema.decay > 0.0;
  if (averages) {
    plan.regions.push_back({"ema", ModelState::average_bytes(layout, config.parallel.zero_stage)});
  }
  plan.regions.push_back({"gradients", GradientBuckets::gradient_bytes(layout, gradients)});
  plan.regions.push_back({"buckets", GradientBuckets::bucket_bytes(layout, gradients)});
  if (measures_layers(config))
    plan.regions.push_back({UpdateChanges::kRegion, LayerStatistics::layer_bytes()});
  if (config.optimizer.name == ops::OptimizerKind::kMuon) {
    plan.regions.push_back({MuonUpdate::kRegion,
                            MuonUpdate::bytes(config, table, layout, config.parallel.zero_stage)});
  }
  const bool on_cuda = config.backend.device == DeviceChoice::kCuda;
  for (const models::MemoryRegion& region : models::Transformer::memory_regions(
           config.model, compute, config.batch.micro,
           on_cuda ? core::DeviceType::kCuda : core::DeviceType::kCpu,
           models::backward_plan(table, recompute_of(config)))) {
    const bool results = region.name == ops::kResultsRegion;
    plan.regions.push_back(
        {region.name, region.bytes + (results ? result_bytes(config, table, layout, rank) : 0)});
  }
  plan.regions.push_back({"workspace", workspace_bytes(config, table, layout, threads)});
  if (config.backend.device == DeviceChoice::kCuda)
    plan.regions.push_back({ops::kTablesRegion, table_bytes(config, table, layout)});
  for (PlannedRegion& region : plan.regions)
    region.on_device = on_cuda;
  if (on_cuda && rank == 0 && config.health.replay_bundles > 0) {
    plan.regions.push_back({KeptParameters::kRegion, ModelState::parameter_bytes(layout, compute)});
  }
  plan.regions.push_back({"checkpoint", Snapshot::bytes(layout, states + (averages ? 1 : 0),
                                                        config.parallel.zero_stage, rank)});
  const std::int64_t reductions = gradients.boundary() ? 1 : gradients.rounds;
  plan.bytes_reduced = wire_bytes(layout, gradients.wire) * static_cast<std::size_t>(reductions);
  plan.bytes_gathered =
      wire_bytes(layout, config.parallel.zero_stage == 0 ? core::DType::kF32 : compute);
  return plan;
}

std::size_t MemoryPlan::bytes_of(const std::string& region) const {
  for (const PlannedRegion& planned : regions)
    if (planned.name == region) return planned.bytes;
  return 0;
}

std::string to_table(const MemoryPlan& plan, const core::MemoryTracker* tracker) {
  std::map<std::string, core::MemoryTracker::Usage> actual;
  if (tracker != nullptr) actual = tracker->regions();
  std::string text = fmt::format("{:<24}{:>14}{}\n", "region (one rank)", "planned MiB",
                                 tracker == nullptr ? "" : "      peak MiB");
  const bool on_cuda = plan.device_bytes() > 0;
  for (const PlannedRegion& region : plan.regions) {
    const std::string where = on_cuda && !region.on_device ? " (host)" : "";
    text += fmt::format("{:<24}{:>14.2f}", region.name + where, mebibytes(region.bytes));
    if (tracker != nullptr) text += fmt::format("{:>14.2f}", mebibytes(actual[region.name].peak));
    text += "\n";
    actual.erase(region.name);
  }
  for (const auto& [name, usage] : actual) {
    text += fmt::format("{:<24}{:>14}{:>14.2f}\n", name, "-", mebibytes(usage.peak));
  }
  if (on_cuda)
    text += fmt::format("{:<24}{:>14.2f}\n", "of it on the device", mebibytes(plan.device_bytes()));
  text += fmt::format("{:<24}{:>14.2f}", "total", mebibytes(plan.total()));
  if (tracker != nullptr) text += fmt::format("{:>14.2f}", mebibytes(tracker->peak()));
  return text + "\n";
}

}  // namespace lockstep::runtime
