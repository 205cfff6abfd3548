#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/dense_bodies.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row_io.h"
#include "ops/cpu/scratch_sizes.h"
#include "ops/cpu/vector_math.h"
#include "ops/sequence_weights.h"

namespace lockstep::ops::cpu {

namespace {

constexpr std::int64_t kBlock = 1024;  // elements of a row worked on while in the first-level cache

// Logits as they enter the softmax: as they are, or softcap * tanh(x / softcap).
template <typename A>
struct Cap {
  A softcap;
  bool active;

  explicit Cap(double value) : softcap(static_cast<A>(value)), active(value > 0.0) {}

  A operator()(A x) const { return active ? softcap * vector_tanh(x / softcap) : x; }
  // z[0, n) from x; x and z may be the same.
  void apply(const A* x, A* z, std::int64_t n) const {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i)
      z[i] = softcap * vector_tanh(x[i] / softcap);
  }
};

// What one pass over a row finds: its maximum, sum(exp(z - reference)) and sum(z).
template <typename A>
struct SoftmaxSums {
  A maximum = -std::numeric_limits<A>::infinity();
  double exponentials = 0.0;
  double values = 0.0;

  // What is subtracted before exp: the maximum, but 0 while everything is -inf, so that masked
  // elements add 0 and not exp(-inf + inf).
  A reference() const { return maximum == -std::numeric_limits<A>::infinity() ? A{0} : maximum; }
  double log_of_exponentials() const { return std::log(exponentials); }
  double lse() const { return static_cast<double>(reference()) + log_of_exponentials(); }

  void add(const A* z, std::int64_t n);
};

// The online softmax, block by block: what was summed is rescaled when the maximum rises. NaN is
// never a maximum, but makes the sum NaN.
template <typename A>
void SoftmaxSums<A>::add(const A* z, std::int64_t n) {
  A block_maximum = maximum;
#pragma omp simd reduction(max : block_maximum)
  for (std::int64_t i = 0; i < n; ++i)
    block_maximum = z[i] > block_maximum ? z[i] : block_maximum;
  if (block_maximum > maximum) {
    exponentials *= static_cast<double>(vector_exp(maximum - block_maximum));
    maximum = block_maximum;
  }
  const A offset = reference();
  A sum{};
  A sum_values{};
#pragma omp simd reduction(+ : sum, sum_values)
  for (std::int64_t i = 0; i < n; ++i) {
    sum += vector_exp(z[i] - offset);
    sum_values += z[i];
  }
  exponentials += static_cast<double>(sum);
  values += static_cast<double>(sum_values);
}

template <typename A>
SoftmaxSums<A> sum_row(const A* logits, std::int64_t vocab, const Cap<A>& cap) {
  SoftmaxSums<A> sums;
  A capped[kBlock];
  for (std::int64_t begin = 0; begin < vocab; begin += kBlock) {
    const std::int64_t n = std::min(kBlock, vocab - begin);
    const A* z = logits + begin;
    if (cap.active) {
      cap.apply(z, capped, n);
      z = capped;
    }
    sums.add(z, n);
  }
  return sums;
}

// d(optimised)/dz[j] = p[j] (1 + 2 z_loss lse) - e/V - (1-e) [j = target], times the weight. One
// block is copied out before any of its gradient is written, and gradients are never wider than
// logits, so the row may be overwritten in place.
template <typename A, typename T>
void write_gradient(const A* logits, std::int64_t vocab, std::int32_t target,
                    const SoftmaxSums<A>& sums, const LossOptions& options, double row_weight,
                    const Cap<A>& cap, T* gradient) {
  const double weight = static_cast<double>(options.gradient_weight) * row_weight;
  const double e = options.label_smoothing;
  const auto scale =
      static_cast<A>(weight * (1.0 + 2.0 * options.z_loss * sums.lse()) / sums.exponentials);
  const auto smoothed = static_cast<A>(weight * e / static_cast<double>(vocab));
  const auto at_target = static_cast<A>(weight * (1.0 - e));
  const A offset = sums.reference();
  A z[kBlock];
  A g[kBlock];
  for (std::int64_t begin = 0; begin < vocab; begin += kBlock) {
    const std::int64_t n = std::min(kBlock, vocab - begin);
    load_row(logits + begin, z, n);
    if (cap.active) cap.apply(z, z, n);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i)
      g[i] = scale * vector_exp(z[i] - offset) - smoothed;
    if (target >= begin && target < begin + n) g[target - begin] -= at_target;
    if (cap.active) {
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) {
        const A t = z[i] / cap.softcap;
        g[i] *= (A{1} - t) * (A{1} + t);
      }
    }
    store_row(g, gradient + begin, n);
  }
}

struct RowLoss {
  double optimised = 0.0;
  double cross_entropy = 0.0;
};

template <typename A>
RowLoss loss_of(const SoftmaxSums<A>& sums, A target_value, std::int64_t vocab,
                const LossOptions& options) {
  const auto reference = static_cast<double>(sums.reference());
  const double log_sum = sums.log_of_exponentials();
  RowLoss loss;
  loss.cross_entropy = log_sum + (reference - static_cast<double>(target_value));
  loss.optimised = loss.cross_entropy;
  // only when asked for: 0 * inf would turn a finite loss with masked logits into NaN
  if (options.label_smoothing > 0.0) {
    const double mean = sums.values / static_cast<double>(vocab);
    loss.optimised = (1.0 - options.label_smoothing) * loss.cross_entropy +
                     options.label_smoothing * (log_sum + (reference - mean));
  }
  if (options.z_loss > 0.0) loss.optimised += options.z_loss * sums.lse() * sums.lse();
  return loss;
}

template <typename T>
LossSums cross_entropy_typed(OpContext& context, const core::ConstTensorView& logits,
                             std::span<const std::int32_t> targets, const LossOptions& options,
                             double softcap, const core::TensorView& dlogits) {
  using A = core::AccumulateT<T>;
  const std::int64_t rows = logits.rows();
  const std::int64_t vocab = logits.cols();
  const Cap<A> cap(softcap);
  const SequenceWeights weights(targets, options.sequence_rows);
  auto* losses = reinterpret_cast<RowLoss*>(context.scratch(cross_entropy_scratch(rows)));
  const auto run_row = [&](std::int64_t r) {
    const std::int32_t target = targets[static_cast<std::size_t>(r)];
    if (target == kIgnored) {
      if (!dlogits.empty()) std::fill_n(dlogits.row<T>(r), vocab, T{});
      return;
    }
    const A* row = logits.row<A>(r);
    const SoftmaxSums<A> sums = sum_row(row, vocab, cap);
    losses[r] = loss_of(sums, cap(row[target]), vocab, options);
    if (dlogits.empty()) return;
    write_gradient(row, vocab, target, sums, options, weights.of_row(r), cap, dlogits.row<T>(r));
  };
  parallel_chunks(context, rows, rows_per_chunk(vocab),
                  [&](std::int64_t begin, std::int64_t end, std::int64_t) {
                    for (std::int64_t r = begin; r < end; ++r)
                      run_row(r);
                  });
  LossSums sums;
  for (std::int64_t r = 0; r < rows; ++r) {
    if (targets[static_cast<std::size_t>(r)] == kIgnored) continue;
    sums.optimised += losses[r].optimised * weights.of_row(r);
    sums.cross_entropy += losses[r].cross_entropy;
    ++sums.counted;
  }
  sums.terms = weights.terms(sums.counted);
  return sums;
}

}  // namespace

std::size_t cross_entropy_scratch(std::int64_t rows) {
  return static_cast<std::size_t>(rows) * sizeof(RowLoss);
}

void cross_entropy(OpContext& context, core::ConstTensorView logits,
                   std::span<const std::int32_t> targets, const LossOptions& options,
                   double softcap, core::TensorView dlogits, LossSums* sums) {
  const core::DType dtype = dlogits.empty() ? logits.dtype() : dlogits.dtype();
  *sums = core::visit_floating(dtype, [&](auto tag) {
    return cross_entropy_typed<decltype(tag)>(context, logits, targets, options, softcap, dlogits);
  });
}

void softcap_logits(OpContext& context, double softcap, core::TensorView logits) {
  const auto run = [&](auto tag) {
    using A = decltype(tag);
    const Cap<A> cap(softcap);
    parallel_chunks(context, logits.rows(), rows_per_chunk(logits.cols()),
                    [&](std::int64_t begin, std::int64_t end, std::int64_t) {
                      for (std::int64_t r = begin; r < end; ++r)
                        cap.apply(logits.row<A>(r), logits.row<A>(r), logits.cols());
                    });
  };
  logits.dtype() == core::DType::kF64 ? run(double{}) : run(float{});
}

}  // namespace lockstep::ops::cpu
