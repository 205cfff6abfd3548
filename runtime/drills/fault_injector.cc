#include "runtime/drills/fault_injector.h"

#include <fmt/format.h>
#include <signal.h>

#include <chrono>
#include <limits>
#include <new>
#include <stdexcept>
#include <thread>

#include "ops/transfer.h"

namespace lockstep::runtime {

FaultInjector::FaultInjector(std::vector<FaultConfig> faults, int rank, core::Logger& log)
    : log_(log) {
  for (const FaultConfig& fault : faults) {
    if (fault.rank == rank) faults_.push_back(fault);
  }
}

const FaultConfig* FaultInjector::find(FaultKind kind, std::int64_t step) const {
  for (const FaultConfig& fault : faults_) {
    if (fault.kind == kind && fault.step == step) return &fault;
  }
  return nullptr;
}

int FaultInjector::poisoned_block(std::int64_t step) const {
  const FaultConfig* fault = find(FaultKind::kNan, step);
  return fault == nullptr ? -1 : static_cast<int>(fault->layer);
}

void FaultInjector::overflow_gradient(std::int64_t step, int block, core::TensorView gradient,
                                      ops::OpContext& context) const {
  for (const FaultConfig& fault : faults_) {
    if (fault.kind != FaultKind::kOverflow || fault.step != step || fault.layer != block) continue;
    log_.warning("fault", "drill: +inf put into the gradient of block {} at step {}", block, step);
    core::visit_floating(gradient.dtype(), [&](auto tag) {
      using T = decltype(tag);
      const auto infinity = static_cast<T>(std::numeric_limits<float>::infinity());
      ops::from_host(context, &infinity, gradient);
    });
  }
}

void FaultInjector::overflow_bucket(std::int64_t step, const models::ParameterTable& table,
                                    const BucketPlacement& bucket, core::TensorView leaf,
                                    ops::OpContext& context) const {
  const bool is_block = bucket.spec.group > 0 && bucket.spec.group < table.groups() - 1;
  if (!is_block) return;
  for (std::size_t i = 0; i < bucket.spec.pieces.size(); ++i) {
    const models::ParameterSpec& spec = table[bucket.spec.pieces[i].parameter];
    if (spec.role != models::ParameterRole::kLinearWeight) continue;
    auto* data = static_cast<std::byte*>(leaf.raw()) +
                 static_cast<std::size_t>(bucket.piece_offsets[i]) * core::size_of(leaf.dtype());
    overflow_gradient(step, bucket.spec.group - 1,
                      {data, leaf.dtype(), core::Shape{1}, leaf.device()}, context);
    return;
  }
}

int FaultInjector::flipped_block(std::int64_t step) const {
  const FaultConfig* fault = find(FaultKind::kBitflip, step);
  return fault == nullptr ? -1 : static_cast<int>(fault->layer);
}

void FaultInjector::slow_down(std::int64_t step) const {
  if (find(FaultKind::kSlow, step) == nullptr) return;
  log_.warning("fault", "drill: sleeping {} s at step {}", kSlowSeconds, step);
  std::this_thread::sleep_for(std::chrono::duration<double>(kSlowSeconds));
}

void FaultInjector::exhaust_memory(std::int64_t step) const {
  if (find(FaultKind::kOom, step) == nullptr) return;
  log_.warning("fault", "drill: an allocation fails at step {}", step);
  throw std::bad_alloc();
}

void FaultInjector::throw_if_asked(std::int64_t step) const {
  if (attempt_ != 1 || find(FaultKind::kThrow, step) == nullptr) return;
  throw std::runtime_error(fmt::format("drill: an exception is thrown at step {}", step));
}

void FaultInjector::kill_or_hang(std::int64_t step) const {
  if (attempt_ != 1) return;
  if (find(FaultKind::kKill, step) != nullptr) {
    log_.warning("fault", "drill: this rank kills itself at step {}", step);
    raise(SIGKILL);
  }
  if (find(FaultKind::kHang, step) == nullptr) return;
  log_.warning("fault", "drill: this rank hangs from step {} on", step);
  while (true)
    std::this_thread::sleep_for(std::chrono::seconds(1));
}

void flip_bit(core::TensorView values, ops::OpContext& context) {
  // Byte 0 of a little-endian float holds its lowest mantissa bits.
  const core::TensorView byte(values.raw(), core::DType::kU8, core::Shape{1}, values.device());
  std::uint8_t bits = 0;
  ops::to_host(context, byte, &bits);
  bits ^= 0x02U;
  ops::from_host(context, &bits, byte);
}

}  // namespace lockstep::runtime
