#include "runtime/memory_plan.h"

#include <fmt/format.h>

#include <map>

#include "models/transformer.h"
#include "runtime/trainer.h"

namespace lockstep::runtime {

namespace {

double mebibytes(std::size_t bytes) { return static_cast<double>(bytes) / 1048576.0; }

// (N-1)/N of the padded elements: what a rank sends in one reduce-scatter or all-gather of everything.
std::size_t wire_bytes(const BucketLayout& layout, core::DType dtype) {
  const std::int64_t elements = layout.flat_elements() - layout.shard_total();
  return static_cast<std::size_t>(elements) * core::size_of(dtype);
}

}  // namespace

std::size_t MemoryPlan::total() const {
  std::size_t sum = 0;
  for (const PlannedRegion& region : regions) sum += region.bytes;
  return sum;
}

MemoryPlan plan_memory(const Config& config, int world_size, int threads) {
  const models::ParameterTable table(config.model);
  const BucketLayout layout = bucket_layout(config, table, world_size);
  const GradientPlan gradients = gradient_plan(config, world_size);
  const core::DType compute = config.precision.compute;
  const int states =
      models::ops::state_tensors(config.optimizer.name, config.optimizer.momentum);

  MemoryPlan plan;
  plan.world_size = world_size;
  plan.zero_stage = config.parallel.zero_stage;
  plan.grad_sync = config.parallel.grad_sync;
  plan.regions.push_back({"parameters", ModelState::parameter_bytes(layout, compute)});
  plan.regions.push_back(
      {"optimizer",
       ModelState::optimizer_bytes(layout, compute, config.parallel.zero_stage, states)});
  plan.regions.push_back({"gradients", GradientBuckets::gradient_bytes(layout, gradients)});
  plan.regions.push_back({"buckets", GradientBuckets::bucket_bytes(layout, gradients)});
  for (const models::MemoryRegion& region :
       models::Transformer::memory_regions(config.model, compute, config.batch.micro)) {
    plan.regions.push_back({region.name, region.bytes});
  }
  static_cast<void>(threads);
  const std::int64_t reductions = gradients.boundary() ? 1 : gradients.rounds;
  plan.bytes_reduced =
      wire_bytes(layout, gradients.wire) * static_cast<std::size_t>(reductions);
  plan.bytes_gathered = wire_bytes(
      layout, config.parallel.zero_stage == 0 ? core::DType::kF32 : compute);
  return plan;
}

std::string to_table(const MemoryPlan& plan, const core::MemoryTracker* tracker) {
  std::map<std::string, core::MemoryTracker::Usage> actual;
  if (tracker != nullptr) actual = tracker->regions();
  std::string text = fmt::format("{:<24}{:>14}{}\n", "region (one rank)", "planned MiB",
                                 tracker == nullptr ? "" : "      peak MiB");
  for (const PlannedRegion& region : plan.regions) {
    text += fmt::format("{:<24}{:>14.2f}", region.name, mebibytes(region.bytes));
    if (tracker != nullptr) text += fmt::format("{:>14.2f}", mebibytes(actual[region.name].peak));
    text += "\n";
    actual.erase(region.name);
  }
  for (const auto& [name, usage] : actual) {
    text += fmt::format("{:<24}{:>14}{:>14.2f}\n", name, "-", mebibytes(usage.peak));
  }
  text += fmt::format("{:<24}{:>14.2f}", "total", mebibytes(plan.total()));
  if (tracker != nullptr) text += fmt::format("{:>14.2f}", mebibytes(tracker->peak()));
  return text + "\n";
}

}  // namespace lockstep::runtime
