#include <cmath>
#include <limits>

#include "models/ops/cross_entropy.h"

#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/op_kernel.cuh"

namespace lockstep::models::ops::cuda {

namespace {

constexpr unsigned kThreads = 1024;

struct RowLoss {
  double optimised;
  double cross_entropy;
};

struct LossRule {
  double label_smoothing;
  double z_loss;
  double weight;  // of the gradient
  float softcap;  // 0: none
};

__device__ float capped(float x, float softcap) {
  return softcap > 0.0F ? softcap * tanhf(x / softcap) : x;
}

// What one pass over a row finds, and how two such findings become one: the online softmax. While
// everything is -inf the reference is 0, so that masked elements add 0 and not exp(-inf + inf). NaN
// is never a maximum, but makes the sum NaN.
struct Softmax {
  float maximum;
  double exponentials;
  double values;

  __device__ float reference() const { return maximum == -INFINITY ? 0.0F : maximum; }
};

struct JoinSoftmax {
  __device__ static double scaled(const Softmax& s, float maximum) {
    return s.maximum == maximum || s.maximum == -INFINITY
               ? s.exponentials
               : s.exponentials * static_cast<double>(expf(s.maximum - maximum));
  }
  __device__ Softmax operator()(const Softmax& a, const Softmax& b) const {
    const float maximum = a.maximum > b.maximum ? a.maximum : b.maximum;
    return {maximum, scaled(a, maximum) + scaled(b, maximum), a.values + b.values};
  }
};

__device__ Softmax exchanged(const Softmax& s, int mask) {
  return {shuffle_xor(s.maximum, mask), shuffle_xor(s.exponentials, mask),
          shuffle_xor(s.values, mask)};
}

// Over the block; the same on every thread, because the joining of two is symmetric.
__device__ Softmax join_block(Softmax s, Softmax* room) {
  const JoinSoftmax join;
  for (int mask = kWarp / 2; mask > 0; mask /= 2)
    s = join(s, exchanged(s, mask));
  sync_threads();
  if (threadIdx.x % kWarp == 0) room[threadIdx.x / kWarp] = s;
  sync_threads();
  s = room[0];
  for (unsigned w = 1; w < blockDim.x / kWarp; ++w)
    s = join(s, room[w]);
  return s;
}

// Adds the values of one piece, n of them.
__device__ void add_piece(const float (&z)[kLane], std::int64_t n, Softmax& s) {
  float maximum = s.maximum;
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    if (i < n && z[i] > maximum) maximum = z[i];
  if (maximum > s.maximum) {
    s.exponentials *= static_cast<double>(expf(s.maximum - maximum));
    s.maximum = maximum;
  }
  const float reference = s.reference();
  float exponentials = 0.0F;
  float values = 0.0F;
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    if (i >= n) continue;
    exponentials += expf(z[i] - reference);
    values += z[i];
  }
  s.exponentials += static_cast<double>(exponentials);
  s.values += static_cast<double>(values);
}

__device__ RowLoss loss_of(const Softmax& s, float target_value, std::int64_t vocab,
                           const LossRule& rule) {
  const auto reference = static_cast<double>(s.reference());
  const double log_sum = log(s.exponentials);
  RowLoss loss;
  loss.cross_entropy = log_sum + (reference - static_cast<double>(target_value));
  loss.optimised = loss.cross_entropy;
  // only when asked for: 0 * inf would turn a finite loss with masked logits into NaN
  if (rule.label_smoothing > 0.0) {
    const double mean = s.values / static_cast<double>(vocab);
    loss.optimised = (1.0 - rule.label_smoothing) * loss.cross_entropy +
                     rule.label_smoothing * (log_sum + (reference - mean));
  }
  const double lse = reference + log_sum;
  if (rule.z_loss > 0.0) loss.optimised += rule.z_loss * lse * lse;
  return loss;
}

// What turns a capped logit into its gradient:
// d(optimised)/dz[j] = p[j] (1 + 2 z_loss lse) - e/V - (1-e) [j = target], times the weight.
struct GradientRule {
  float scale;
  float smoothed;
  float at_target;
  float reference;
  float softcap;

  __device__ GradientRule(const Softmax& s, std::int64_t vocab, const LossRule& rule)
      : scale(static_cast<float>(
            rule.weight *
            (1.0 + 2.0 * rule.z_loss * (static_cast<double>(s.reference()) + log(s.exponentials))) /
            s.exponentials)),
        smoothed(
            static_cast<float>(rule.weight * rule.label_smoothing / static_cast<double>(vocab))),
        at_target(static_cast<float>(rule.weight * (1.0 - rule.label_smoothing))),
        reference(s.reference()),
        softcap(rule.softcap) {}

  __device__ float operator()(float logit, bool is_target) const {
    const float z = capped(logit, softcap);
    float g = scale * expf(z - reference) - smoothed;
    if (is_target) g -= at_target;
    if (softcap > 0.0F) {
      const float t = z / softcap;
      g *= (1.0F - t) * (1.0F + t);
    }
    return g;
  }
};

// One row by one block. kStaged: the row is kept in shared memory, so that it is read from memory
// once. Otherwise it is read again, and each stretch of it is read by all before any of its
// gradient is written: a 16-bit row may lie in the first half of its own logits.
template <typename T, bool kStaged>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(Rows<const float> logits, const std::int32_t* targets, std::int64_t vocab,
                         LossRule rule, Rows<T> dlogits, RowLoss* losses) {
  LOCKSTEP_SHARED(Softmax, room, kWarp);
  const std::int64_t row = blockIdx.x;
  const std::int32_t target = targets[row];
  constexpr std::int64_t kStretch = std::int64_t{kThreads} * kLane;
  const std::int64_t mine = threadIdx.x * std::int64_t{kLane};
  if (target == kIgnored) {
    const float zeros[kLane] = {};
    if (dlogits.data != nullptr) {
      for (std::int64_t c = mine; c < vocab; c += kStretch)
        store(zeros, vocab - c, dlogits.aligned, dlogits.row(row) + c);
    }
    if (threadIdx.x == 0) losses[row] = {0.0, 0.0};
    return;
  }
  const float* from = logits.row(row);
  float* kept = kStaged ? dynamic_shared<float>() : nullptr;
  Softmax s{-INFINITY, 0.0, 0.0};
  for (std::int64_t c = mine; c < vocab; c += kStretch) {
    float z[kLane];
    load(from + c, vocab - c, logits.aligned, z);
    if constexpr (kStaged) store(z, vocab - c, true, kept + c);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      z[i] = capped(z[i], rule.softcap);
    add_piece(z, vocab - c, s);
  }
  s = join_block(s, room);
  if (threadIdx.x == 0) {
    losses[row] = loss_of(s, capped(from[target], rule.softcap), vocab, rule);
  }
  if (dlogits.data == nullptr) return;
  // The target's logit is read above before anything is written below.
  sync_threads();
  const GradientRule gradient(s, vocab, rule);
  for (std::int64_t begin = 0; begin < vocab; begin += kStretch) {
    const std::int64_t c = begin + mine;
    float z[kLane];
    load(kStaged ? kept + c : from + c, vocab - c, kStaged || logits.aligned, z);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      z[i] = gradient(z[i], c + i == target);
    if constexpr (!kStaged) sync_threads();
    store(z, vocab - c, dlogits.aligned, dlogits.row(row) + c);
  }
}

__global__ void __launch_bounds__(kThreads)
    sum_losses_kernel(const RowLoss* losses, std::int64_t rows, std::int64_t counted,
                      LossSums* out) {
  LOCKSTEP_SHARED(double, room, kWarp);
  RowLoss sum{0.0, 0.0};
  for (std::int64_t r = threadIdx.x; r < rows; r += kThreads) {
    sum.optimised += losses[r].optimised;
    sum.cross_entropy += losses[r].cross_entropy;
  }
  sum.optimised = combine_block(sum.optimised, AddOf{}, room);
  sum.cross_entropy = combine_block(sum.cross_entropy, AddOf{}, room);
  if (threadIdx.x == 0) *out = {sum.optimised, sum.cross_entropy, counted};
}

__global__ void softcap_kernel(Walk walk, float softcap, Rows<float> logits) {
  const Piece p(walk);
  if (p.count <= 0) return;
  float v[kLane];
  load(logits.row(p.row) + p.col, p.count, logits.aligned, v);
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    v[i] = capped(v[i], softcap);
  store(v, p.count, logits.aligned, logits.row(p.row) + p.col);
}

void check_logits(const char* op, const ConstTensorView& logits) {
  if (logits.dtype() == DType::kF32) return;
  throw core::Error(core::ErrorKind::kConfig, fmt::format("{}: logits on a GPU are fp32, found {}",
                                                          op, core::name_of(logits.dtype())));
}

std::size_t shared_memory_limit(const OpContext& context) {
  core::DeviceProperties properties;
  const core::DeviceRuntime& runtime = context.stream().runtime();
  core::check_device(runtime, runtime.properties(context.device().index, &properties),
                     "asking for the properties of the device");
  return properties.shared_memory_limit;
}

}  // namespace

void cross_entropy(OpContext& context, ConstTensorView logits,
                   std::span<const std::int32_t> targets, const LossOptions& options,
                   double softcap, TensorView dlogits, LossSums* sums) {
  check_logits("cross_entropy", logits);
  const std::int64_t rows = logits.rows();
  const std::int64_t vocab = logits.cols();
  check_device_range(sums, sizeof(LossSums));
  const auto counted = static_cast<std::int64_t>(targets.size()) -
                       std::count(targets.begin(), targets.end(), kIgnored);
  Carver carver(context.scratch(Carver::bytes<std::int32_t>(rows) + Carver::bytes<RowLoss>(rows)));
  auto* device_targets = carver.take<std::int32_t>(rows);
  auto* losses = carver.take<RowLoss>(rows);
  context.upload(device_targets, targets.data(), targets.size_bytes());
  const LossRule rule{options.label_smoothing, options.z_loss,
                      static_cast<double>(options.gradient_weight),
                      softcap > 0.0 ? static_cast<float>(softcap) : 0.0F};
  const std::size_t row_bytes = static_cast<std::size_t>(ceil_div(vocab, kLane) * kLane) * 4;
  // 1 KiB is what the kernel has beside the row.
  const bool staged = row_bytes + 1024 <= shared_memory_limit(context);
  visit_compute(dlogits.empty() ? DType::kF32 : dlogits.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("cross_entropy", staged ? cross_entropy_kernel<T, true> : cross_entropy_kernel<T, false>,
           Grid{block_count(rows), kThreads, staged ? row_bytes : 0}, context.stream(),
           rows_of<const float>(logits), static_cast<const std::int32_t*>(device_targets), vocab,
           rule, rows_of<T>(dlogits), losses);
  });
  launch("sum_losses", sum_losses_kernel, Grid{1, kThreads, 0}, context.stream(),
         static_cast<const RowLoss*>(losses), rows, static_cast<std::int64_t>(counted), sums);
}

void softcap_logits(OpContext& context, double softcap, TensorView logits) {
  check_logits("softcap_logits", logits);
  const Walk walk(logits.rows(), logits.cols(), logits.contiguous());
  launch("softcap_logits", softcap_kernel, walk.grid(), context.stream(), walk,
         static_cast<float>(softcap), walk.rows_of<float>(logits));
}

}  // namespace lockstep::models::ops::cuda
