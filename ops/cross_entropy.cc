#include "ops/cross_entropy.h"

#include "core/check.h"
#include "core/error.h"
#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::DType;
using core::Error;
using core::ErrorKind;
using core::TensorView;

namespace {

void check_targets(std::span<const std::int32_t> targets, std::int64_t vocab) {
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const std::int32_t target = targets[i];
    if (target == kIgnored || (target >= 0 && target < vocab)) continue;
    throw Error(ErrorKind::kData,
                fmt::format("target {} at position {} of the micro-batch is outside the "
                            "vocabulary: expected 0 to {}, or {} for an ignored position; check "
                            "that the data was tokenised for a vocabulary of this size",
                            target, i, vocab - 1, kIgnored));
  }
}

// Rows may coincide one by one (in place) or lie apart; anything else would overwrite logits that
// are still to be read.
void check_overlap(const ConstTensorView& logits, const TensorView& dlogits) {
  const auto begin = [](const ConstTensorView& view) {
    return reinterpret_cast<std::uintptr_t>(view.raw());
  };
  const auto stride = [](const ConstTensorView& view) {
    return static_cast<std::size_t>(view.row_stride()) * core::size_of(view.dtype());
  };
  const auto end = [&](const ConstTensorView& view) {
    return begin(view) + stride(view) * static_cast<std::size_t>(view.rows());
  };
  if (end(dlogits) <= begin(logits) || end(logits) <= begin(dlogits)) return;
  const bool in_place =
      begin(logits) == begin(dlogits) && (stride(logits) == stride(dlogits) || logits.rows() <= 1);
  LOCKSTEP_CHECK(in_place,
                 "cross_entropy: dlogits overlaps logits, but their rows do not begin at the same "
                 "addresses (row strides of {} and {} bytes)",
                 stride(dlogits), stride(logits));
}

}  // namespace

void cross_entropy(OpContext& context, ConstTensorView logits,
                   std::span<const std::int32_t> targets, const LossOptions& options,
                   double softcap, TensorView dlogits, LossSums* sums) {
  constexpr const char* kOp = "cross_entropy";
  const std::int64_t rows = logits.rows();
  const std::int64_t vocab = logits.cols();
  const OpBodies& bodies = bodies_for(context, kOp, {logits, dlogits});
  if (!core::is_floating(dlogits.dtype())) core::fail_not_floating(dlogits.dtype());
  // without dlogits the compute dtype is unknown: logits say whether it is fp64
  const DType accumulate = dlogits.empty() ? core::accumulate_dtype(logits.dtype())
                                           : core::accumulate_dtype(dlogits.dtype());
  check_matrix(kOp, "logits", logits, accumulate, rows, vocab);
  check_matrix_or_empty(kOp, "dlogits", dlogits, dlogits.dtype(), rows, vocab);
  LOCKSTEP_CHECK_EQ(static_cast<std::int64_t>(targets.size()), rows, "targets and rows of logits");
  LOCKSTEP_CHECK(
      options.weight_on_device == nullptr || context.device().type != core::DeviceType::kCpu,
      "{}: a weight in device memory for a loss on the CPU", kOp);
  LOCKSTEP_CHECK(options.sequence_rows == 0 || rows % options.sequence_rows == 0,
                 "{}: {} rows are no whole sequences of {}", kOp, rows, options.sequence_rows);
  check_targets(targets, vocab);
  if (!dlogits.empty()) check_overlap(logits, dlogits);
  bodies.cross_entropy(context, logits, targets, options, softcap, dlogits, sums);
}

void softcap_logits(OpContext& context, double softcap, TensorView logits) {
  constexpr const char* kOp = "softcap_logits";
  LOCKSTEP_CHECK(softcap > 0.0, "{}: softcap must be above 0, found {}", kOp, softcap);
  const OpBodies& bodies = bodies_for(context, kOp, {logits});
  check_matrix(kOp, "logits", logits, core::accumulate_dtype(logits.dtype()), logits.rows(),
               logits.cols());
  bodies.softcap_logits(context, softcap, logits);
}

}  // namespace lockstep::ops
