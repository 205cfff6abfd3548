#include "runtime/config/config.h"

#include <fmt/format.h>

#include "core/counted.h"
#include "core/error.h"

namespace lockstep::runtime {
namespace {

[[noreturn]] void fail(const Config& config, const std::string& message) {
  throw core::Error(core::ErrorKind::kConfig, config.source + ": " + message);
}

// "1, 2, 3, 6": the divisors of n.
std::string divisors(std::int64_t n) {
  std::string text;
  for (std::int64_t i = 1; i <= n; ++i) {
    if (n % i != 0) continue;
    if (!text.empty()) text += ", ";
    text += std::to_string(i);
  }
  return text;
}

}  // namespace

core::DType reduce_dtype(const Config& config) {
  switch (config.parallel.reduce_type) {
    case ReduceType::kF32:
      return core::DType::kF32;
    case ReduceType::kBF16:
      return core::DType::kBF16;
    case ReduceType::kF16:
      return core::DType::kF16;
    case ReduceType::kAuto:
      break;
  }
  return config.parallel.grad_sync == GradSync::kEveryRound ? config.precision.compute
                                                            : core::DType::kF32;
}

// With muon the embeddings, norms and biases are AdamW's.
int state_tensors(const OptimizerConfig& optimizer) {
  const bool muon = optimizer.name == ops::OptimizerKind::kMuon;
  return ops::state_tensors(muon ? ops::OptimizerKind::kAdamW : optimizer.name, optimizer.momentum);
}

std::int64_t accumulation_rounds(const Config& config, int world_size) {
  const std::int64_t micro_batches = config.batch.global / config.batch.micro;
  if (world_size < 1 || micro_batches % world_size != 0) {
    fail(config, fmt::format("batch.global {} with batch.micro {} is {} a step, which {} cannot "
                             "share evenly; rank counts that fit: {}",
                             config.batch.global, config.batch.micro,
                             core::counted(micro_batches, "micro-batch"),
                             core::counted(world_size, "rank"), divisors(micro_batches)));
  }
  return micro_batches / world_size;
}

void validate_for_world(const Config& config, int world_size) {
  accumulation_rounds(config, world_size);
  if (config.backend.comm == CommChoice::kSelf && world_size > 1) {
    fail(config, fmt::format("backend.comm: self holds one rank, but there are {}; use auto or mpi",
                             world_size));
  }
  for (const FaultConfig& fault : config.fault) {
    if (fault.rank >= world_size) {
      fail(config, fmt::format("fault: rank {} does not exist, of {} from 0 on", fault.rank,
                               core::counted(world_size, "rank")));
    }
  }
}

}  // namespace lockstep::runtime
