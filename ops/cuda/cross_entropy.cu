#include <algorithm>

#include "ops/cross_entropy.h"

#include "ops/cuda/bodies.h"
#include "ops/cuda/cross_entropy.cuh"
#include "ops/sequence_weights.h"

namespace lockstep::ops::cuda {

namespace {

constexpr int kWarps = kLossThreads / kWarp;
constexpr int kSumThreads = 256;

struct RowLoss {
  double optimised;
  double cross_entropy;
};

struct LossRule {
  double label_smoothing;
  double z_loss;
  float weight;            // of the gradient
  const float* in_memory;  // not null: the weight, in place of the one above
  float softcap;           // 0: none
};

// How the rows of a sequence count.
struct RowWeights {
  const double* by_sequence;  // null: every row counts 1
  std::int64_t sequence_rows;

  __device__ double of_row(std::int64_t row) const {
    return by_sequence == nullptr ? 1.0 : by_sequence[row / sequence_rows];
  }
};

// What the loss of a row takes.
struct RowStatistics {
  Softmax softmax;
  float target_value;
};

template <typename T>
struct LossWork {
  Rows<const float> logits;
  const std::int32_t* targets;
  std::int64_t rows;
  int vocab;
  LossRule rule;
  RowWeights weights;
  Rows<T> dlogits;  // absent: only the loss is wanted
  RowStatistics* statistics;
};

__device__ Softmax join_lanes(Softmax s) {
  s.raise(combine_lanes(s.maximum, MaximumOf{}));
  s.exponentials = combine_lanes(s.exponentials, AddOf{});
  s.values = combine_lanes(s.values, AddOf{});
  return s;
}

// Over the block; the same bits on every thread. One barrier: the caller gives another room next
// time, and this one again after that.
__device__ Softmax join_block(Softmax s, Softmax* room) {
  s = join_lanes(s);
  if (lane_of_thread() == 0) room[warp_of_thread()] = s;
  sync_threads();
  return join_lanes(lane_of_thread() < kWarps ? room[lane_of_thread()] : nothing());
}

// Adds a stretch: its maximum first, so that the sum is rescaled at most once.
__device__ void add_stretch(const Stretch& z, int begin, int vocab, bool wants_values, Softmax& s) {
  float maximum = s.maximum;
#pragma unroll
  for (int k = 0; k < kQuads; ++k)
#pragma unroll
    for (int i = 0; i < kQuad; ++i)
      maximum = fmaxf(maximum, z[k][i]);
  s.raise(maximum);
  const float reference = s.reference();
  float sums[kQuads] = {};
#pragma unroll
  for (int k = 0; k < kQuads; ++k)
#pragma unroll
    for (int i = 0; i < kQuad; ++i)
      sums[k] += expand_exp2((z[k][i] - reference) * kLog2E);
  s.exponentials += static_cast<double>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (!wants_values) return;
  float values = 0.0F;
#pragma unroll
  for (int k = 0; k < kQuads; ++k)
#pragma unroll
    for (int i = 0; i < kQuad; ++i)
      if (column(begin, k) + i < vocab) values += z[k][i];
  s.values += static_cast<double>(values);
}

// What turns a capped logit into its gradient:
// d(optimised)/dz[j] = p[j] (1 + 2 z_loss lse) - e/V - (1-e) [j = target], times the weight.
struct GradientRule {
  float scale;
  float smoothed;
  float at_target;
  float reference;
  float softcap;

  __device__ GradientRule(const Softmax& s, int vocab, const LossRule& rule, float weight)
      : smoothed(static_cast<float>(static_cast<double>(weight) * rule.label_smoothing) /
                 static_cast<float>(vocab)),
        at_target(static_cast<float>(static_cast<double>(weight) * (1.0 - rule.label_smoothing))),
        reference(s.reference()),
        softcap(rule.softcap) {
    const auto sum = static_cast<float>(s.exponentials);
    if (rule.z_loss > 0.0)
      weight *= 1.0F + 2.0F * static_cast<float>(rule.z_loss) * (reference + logf(sum));
    scale = weight / sum;
  }

  __device__ void apply(Stretch& z, int begin, int target) const {
#pragma unroll
    for (int k = 0; k < kQuads; ++k) {
      const int at = target - column(begin, k);
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        float g = scale * expand_exp2((z[k][i] - reference) * kLog2E) - smoothed;
        if (at == i) g -= at_target;
        if (softcap > 0.0F) {
          const float t = z[k][i] / softcap;
          g *= (1.0F - t) * (1.0F + t);
        }
        z[k][i] = g;
      }
    }
  }
};

// The row whose logits are kept next, if there is one that counts.
template <typename T>
__device__ const float* counted_row(const LossWork<T>& work, std::int64_t row) {
  return row < work.rows && work.targets[row] != kIgnored ? work.logits.row(row) : nullptr;
}

template <typename T>
__device__ Softmax softmax_of_row(const LossWork<T>& work, const float* row, float* kept) {
  const int vocab = work.vocab;
  Softmax s = nothing();
  for (int begin = 0; begin < vocab; begin += kStretch) {
    Stretch z;
    if (kept != nullptr) {
      wait_for_copies((vocab - 1 - begin) / kStretch);
      read_stretch(kept, begin, vocab, true, z);
    } else {
      read_stretch(row, begin, vocab, work.logits.aligned, z);
    }
    cap_stretch(work.rule.softcap, begin, vocab, z);
    add_stretch(z, begin, vocab, work.rule.label_smoothing > 0.0, s);
  }
  return s;
}

// Writes the gradient of a row, to which its loss counts with `weight`, and keeps of row `next`
// what there comes to be room for.
template <typename T, bool kStaged>
__device__ void write_gradient(const LossWork<T>& work, float weight, std::int64_t row,
                               const Softmax& s, int target, float* kept, const float* next) {
  const int vocab = work.vocab;
  const GradientRule gradient(s, vocab, work.rule, weight);
  for (int begin = 0; begin < vocab; begin += kStretch) {
    Stretch z;
    read_stretch(kStaged ? kept : work.logits.row(row), begin, vocab,
                 kStaged || work.logits.aligned, z);
    cap_stretch(work.rule.softcap, begin, vocab, z);
    // A 16-bit row may lie in the first half of its own logits: all read a stretch before any
    // writes its gradient.
    if constexpr (!kStaged) sync_threads();
    gradient.apply(z, begin, target);
    write_stretch(z, begin, vocab, work.dlogits.aligned, work.dlogits.row(row));
    if constexpr (kStaged) {
      if (next != nullptr) keep_stretch(next, begin, vocab, work.logits.aligned, kept);
    }
  }
}

template <typename T>
__device__ void write_zeros(const LossWork<T>& work, std::int64_t row) {
  const Stretch zeros = {};
  if (work.dlogits.data == nullptr) return;
  for (int begin = 0; begin < work.vocab; begin += kStretch)
    write_stretch(zeros, begin, work.vocab, work.dlogits.aligned, work.dlogits.row(row));
}

__device__ void keep_row(const float* row, int vocab, bool aligned, float* kept) {
  if (row == nullptr) return;
  for (int begin = 0; begin < vocab; begin += kStretch)
    keep_stretch(row, begin, vocab, aligned, kept);
}

// Rows one after another by one block. kStaged: a row is kept in shared memory, so that it is read
// from memory once, and the next one is on its way while gradients are written, so that memory is
// idle only while a block joins its sums. A thread keeps, reads and replaces its own elements, for
// which it need not wait for others. Otherwise a row is read again for its gradient.
template <typename T, bool kStaged>
__global__ void __launch_bounds__(kLossThreads, kStaged ? 1 : 2)
    cross_entropy_kernel(LossWork<T> work) {
  LOCKSTEP_SHARED(Softmax, rooms, 2 * kWarps);
  float* kept = kStaged ? dynamic_shared<float>() : nullptr;
  const float weight = work.rule.in_memory == nullptr ? work.rule.weight : *work.rule.in_memory;
  if constexpr (kStaged)
    keep_row(counted_row(work, blockIdx.x), work.vocab, work.logits.aligned, kept);
  int room = 0;
  for (std::int64_t row = blockIdx.x; row < work.rows; row += gridDim.x) {
    const int target = work.targets[row];
    const float* next = kStaged ? counted_row(work, row + gridDim.x) : nullptr;
    if (target == kIgnored) {
      write_zeros(work, row);
      if constexpr (kStaged) keep_row(next, work.vocab, work.logits.aligned, kept);
      continue;
    }
    const float* from = work.logits.row(row);
    // Read before the barrier within join_block, behind which gradients replace logits.
    const float target_value = threadIdx.x == 0 ? from[target] : 0.0F;
    const Softmax s = join_block(softmax_of_row(work, from, kept), rooms + room);
    room = kWarps - room;
    if (threadIdx.x == 0) work.statistics[row] = {s, capped(target_value, work.rule.softcap)};
    if (work.dlogits.data != nullptr)
      write_gradient<T, kStaged>(work, weight * static_cast<float>(work.weights.of_row(row)), row,
                                 s, target, kept, next);
  }
}

__device__ RowLoss loss_of(const RowStatistics& row, int vocab, const LossRule& rule) {
  const auto reference = static_cast<double>(row.softmax.reference());
  const double log_sum = log(row.softmax.exponentials);
  RowLoss loss;
  loss.cross_entropy = log_sum + (reference - static_cast<double>(row.target_value));
  loss.optimised = loss.cross_entropy;
  // only when asked for: 0 * inf would turn a finite loss with masked logits into NaN
  if (rule.label_smoothing > 0.0) {
    const double mean = row.softmax.values / static_cast<double>(vocab);
    loss.optimised = (1.0 - rule.label_smoothing) * loss.cross_entropy +
                     rule.label_smoothing * (log_sum + (reference - mean));
  }
  const double lse = reference + log_sum;
  if (rule.z_loss > 0.0) loss.optimised += rule.z_loss * lse * lse;
  return loss;
}

// The losses of the rows of a block, a row to a thread, and their sum. Apart from the kernel above,
// which would wait for the logarithm of each row.
__global__ void __launch_bounds__(kSumThreads)
    row_losses_kernel(const RowStatistics* statistics, const std::int32_t* targets,
                      std::int64_t rows, int vocab, LossRule rule, RowWeights weights,
                      RowLoss* sums) {
  LOCKSTEP_SHARED(double, room, kWarp);
  const std::int64_t row = std::int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
  RowLoss loss{0.0, 0.0};
  if (row < rows && targets[row] != kIgnored) {
    loss = loss_of(statistics[row], vocab, rule);
    loss.optimised *= weights.of_row(row);
  }
  loss.optimised = combine_block(loss.optimised, AddOf{}, room);
  loss.cross_entropy = combine_block(loss.cross_entropy, AddOf{}, room);
  if (threadIdx.x == 0) sums[blockIdx.x] = loss;
}

__global__ void __launch_bounds__(kSumThreads)
    sum_losses_kernel(const RowLoss* sums, std::int64_t count, std::int64_t counted,
                      std::int64_t terms, LossSums* out) {
  LOCKSTEP_SHARED(double, room, kWarp);
  RowLoss sum{0.0, 0.0};
  for (std::int64_t i = threadIdx.x; i < count; i += kSumThreads) {
    sum.optimised += sums[i].optimised;
    sum.cross_entropy += sums[i].cross_entropy;
  }
  sum.optimised = combine_block(sum.optimised, AddOf{}, room);
  sum.cross_entropy = combine_block(sum.cross_entropy, AddOf{}, room);
  if (threadIdx.x == 0) *out = {sum.optimised, sum.cross_entropy, counted, 0, terms};
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

core::DeviceProperties properties_of(const OpContext& context) {
  core::DeviceProperties properties;
  const core::DeviceRuntime& runtime = context.stream().runtime();
  core::check_device(runtime, runtime.properties(context.device().index, &properties),
                     "asking for the properties of the device");
  return properties;
}

template <typename T>
void launch_rows(OpContext& context, const LossWork<T>& work) {
  const core::DeviceProperties properties = properties_of(context);
  const std::int64_t vocab = work.vocab;
  const std::size_t row_bytes = static_cast<std::size_t>(ceil_div(vocab, kQuad) * kQuad) * 4;
  // 2 KiB is what the kernel has beside the row.
  const bool staged = work.dlogits.data != nullptr &&
                      row_bytes + 2048 <= properties.shared_memory_limit &&
                      ceil_div(vocab, kStretch) <= kMostStretches;
  const std::int64_t resident = std::int64_t{properties.multiprocessors} * (staged ? 1 : 2);
  launch("cross_entropy", staged ? cross_entropy_kernel<T, true> : cross_entropy_kernel<T, false>,
         Grid{block_count(std::min(work.rows, resident)), kLossThreads, staged ? row_bytes : 0},
         context.stream(), work);
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
  const std::int64_t groups = ceil_div(rows, kSumThreads);
  const SequenceWeights weights(targets, options.sequence_rows);
  const std::vector<double>& by_sequence = weights.by_sequence();
  const auto sequences = static_cast<std::int64_t>(by_sequence.size());
  Carver carver(context.scratch(Carver::bytes<std::int32_t>(rows) +
                                Carver::bytes<RowStatistics>(rows) +
                                Carver::bytes<RowLoss>(groups) + Carver::bytes<double>(sequences)));
  auto* device_targets = carver.take<std::int32_t>(rows);
  auto* statistics = carver.take<RowStatistics>(rows);
  auto* losses = carver.take<RowLoss>(groups);
  auto* device_weights = carver.take<double>(sequences);
  context.upload(device_targets, targets.data(), targets.size_bytes());
  if (sequences > 0)
    context.upload(device_weights, by_sequence.data(), by_sequence.size() * sizeof(double));
  const RowWeights row_weights{sequences > 0 ? device_weights : nullptr, options.sequence_rows};
  const float* weight = options.weight_on_device;
  if (weight != nullptr) check_device_range(weight, sizeof(float));
  const LossRule rule{options.label_smoothing, options.z_loss, options.gradient_weight, weight,
                      softcap > 0.0 ? static_cast<float>(softcap) : 0.0F};
  visit_compute(dlogits.empty() ? DType::kF32 : dlogits.dtype(), [&](auto type) {
    using T = decltype(type);
    launch_rows(context, LossWork<T>{rows_of<const float>(logits), device_targets, rows,
                                     static_cast<int>(vocab), rule, row_weights,
                                     rows_of<T>(dlogits), statistics});
  });
  launch("row_losses", row_losses_kernel, Grid{block_count(groups), kSumThreads, 0},
         context.stream(), static_cast<const RowStatistics*>(statistics),
         static_cast<const std::int32_t*>(device_targets), rows, static_cast<int>(vocab), rule,
         row_weights, losses);
  launch("sum_losses", sum_losses_kernel, Grid{1, kSumThreads, 0}, context.stream(),
         static_cast<const RowLoss*>(losses), groups, counted, weights.terms(counted), sums);
}

void softcap_logits(OpContext& context, double softcap, TensorView logits) {
  check_logits("softcap_logits", logits);
  const Walk walk(logits.rows(), logits.cols(), logits.contiguous());
  launch("softcap_logits", softcap_kernel, walk.grid(), context.stream(), walk,
         static_cast<float>(softcap), walk.rows_of<float>(logits));
}

}  // namespace lockstep::ops::cuda
