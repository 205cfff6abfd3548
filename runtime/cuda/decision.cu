#include <bit>
#include <cmath>

#include "ops/cuda/op_kernel.cuh"
#include "runtime/cuda/decision_kernels.h"

// The step decision on a device: one block of threads each. Sums are of integers, so that neither
// threads nor ranks show in them; the rest is numeric_decision.h.
namespace lockstep::runtime::cuda {

namespace {

using namespace core::cuda;  // NOLINT: the words of a kernel
using ops::ExactSum;
using ops::LossSums;
using ops::NonFinite;
using ops::OpContext;
using ops::SumOfSquares;
using ops::cuda::block_count;
using ops::cuda::ceil_div;

constexpr int kWords = static_cast<int>(ExactSum::kWords);

// Words of the same weight of many sums, added up without carrying.
struct WideWord {
  std::uint64_t low;
  std::uint64_t high;

  __device__ void add(std::uint64_t word) {
    low += word & 0xffffffffU;
    high += word >> 32;
  }
  __device__ void add(const WideWord& other) {
    low += other.low;
    high += other.high;
  }
};

__device__ ExactSum carried(const WideWord* words, std::uint64_t flags) {
  ExactSum sum;
  std::uint64_t carry = 0;
  for (int w = 0; w < kWords; ++w) {
    const std::uint64_t low = words[w].low + carry;
    const std::uint64_t high = words[w].high + (low >> 32);
    sum.words[w] = (low & 0xffffffffU) | high << 32;
    carry = high >> 32;
  }
  sum.flags = flags;
  return sum;
}

// ---- What one rank has measured -------------------------------------------------------------

constexpr int kGroups = 7;  // of kWords threads each, which take turns at the sums
constexpr unsigned kAddThreads = 256;
static_assert(kGroups * kWords <= static_cast<int>(kAddThreads));

struct OrOf {
  __device__ std::uint64_t operator()(std::uint64_t a, std::uint64_t b) const { return a | b; }
};

__device__ bool is_finite(double x) {
  return (std::bit_cast<std::uint64_t>(x) >> 52 & 0x7ff) != 0x7ff;
}

__device__ void add_losses(const ops::LossSums* losses, std::int64_t rounds, StepNumbers& numbers) {
  for (std::int64_t r = 0; r < rounds; ++r) {
    numbers.loss.add(losses[r].optimised);
    numbers.counted += losses[r].counted;
    numbers.terms += losses[r].terms;
    if (!is_finite(losses[r].optimised)) numbers.nonfinite_losses += 1;
  }
}

__global__ void __launch_bounds__(kAddThreads)
    add_up_step_kernel(StepMeasurements measured, StepNumbers* numbers) {
  LOCKSTEP_SHARED(WideWord, parts, kGroups * kWords);
  LOCKSTEP_SHARED(std::uint64_t, flag_room, kWarp);
  LOCKSTEP_SHARED(std::int64_t, count_room, kWarp);
  const int thread = static_cast<int>(threadIdx.x);
  const int word = thread % kWords;
  const int group = thread / kWords;
  if (group < kGroups) {
    WideWord sum{0, 0};
    for (std::int64_t i = group; i < measured.shard_sums; i += kGroups)
      sum.add(measured.shard[i].sum.words[word]);
    parts[thread] = sum;
  }
  std::uint64_t flags = 0;
  std::int64_t nonfinite = 0;
  for (std::int64_t i = thread; i < measured.shard_sums; i += kAddThreads) {
    flags |= measured.shard[i].sum.flags;
    nonfinite += measured.shard[i].nonfinite.inf + measured.shard[i].nonfinite.nan;
  }
  for (std::int64_t i = thread; i < measured.own_counts; i += kAddThreads)
    nonfinite += measured.own[i].inf + measured.own[i].nan;
  flags = combine_block(flags, OrOf{}, flag_room);
  nonfinite = combine_block(nonfinite, AddOf{}, count_room);
  sync_threads();
  if (thread < kWords) {
    for (int g = 1; g < kGroups; ++g)
      parts[thread].add(parts[g * kWords + thread]);
  }
  sync_threads();
  if (thread != 0) return;
  StepNumbers mine;
  mine.sum_of_squares = carried(parts, flags);
  mine.nonfinite_gradients = nonfinite;
  add_losses(measured.losses, measured.rounds, mine);
  *numbers = mine;
}

// ---- What all ranks decide ------------------------------------------------------------------

constexpr unsigned kDecideThreads = 128;
constexpr int kWindow = static_cast<int>(kSpikeWindow);
static_assert(2 * kWindow == static_cast<int>(kDecideThreads));
static_assert(2 * kWords <= static_cast<int>(kDecideThreads));

// Thread i of n finds whether values[i] is one of the two in the middle.
__device__ void find_middle(const double* values, int n, int i, double* middle) {
  if (i >= n) return;
  int below = 0;
  for (int j = 0; j < n; ++j)
    below += values[j] < values[i] || (values[j] == values[i] && j < i) ? 1 : 0;
  if (below == n / 2) middle[1] = values[i];
  if (below == n / 2 - 1) middle[0] = values[i];
}

__device__ double median_of_middle(const double* middle, int n) {
  return n % 2 == 1 ? middle[1] : mean_of_middle(middle[0], middle[1]);
}

// spike_limits() of the state, by the whole block; half of it looks at the losses, half at the
// norms.
__device__ SpikeLimits limits_of(const DecisionRules& rules, const NumericState& state) {
  LOCKSTEP_SHARED(double, values, 2 * kWindow);
  LOCKSTEP_SHARED(double, middle, 4);
  LOCKSTEP_SHARED(double, medians, 4);
  if (!spike_guard_judges(rules.spike_factor, state.spike_guard)) return {};
  const int n = static_cast<int>(state.spike_guard.losses.size());
  const int half = static_cast<int>(threadIdx.x) / kWindow;
  const int i = static_cast<int>(threadIdx.x) % kWindow;
  double* mine = values + half * kWindow;
  const SpikeWindow& window = half == 0 ? state.spike_guard.losses : state.spike_guard.norms;
  if (i < n) mine[i] = window[static_cast<std::size_t>(i)];
  for (int pass = 0; pass < 2; ++pass) {  // the median, then that of the distances from it
    sync_threads();
    find_middle(mine, n, i, middle + 2 * half);
    sync_threads();
    const double median = median_of_middle(middle + 2 * half, n);
    if (i == 0) medians[2 * half + pass] = median;
    if (i < n) mine[i] = mine[i] < median ? median - mine[i] : mine[i] - median;
  }
  sync_threads();
  const double factor = spike_factor_now(rules.spike_factor, state.spike_guard);
  return {true, spike_limit(SpikeQuantity::kLoss, factor, medians[0], medians[1]),
          spike_limit(SpikeQuantity::kNorm, factor, medians[2], medians[3])};
}

// Of all ranks; true to thread 0.
__device__ StepNumbers totals_of(const StepNumbers* numbers, int ranks) {
  LOCKSTEP_SHARED(WideWord, words, 2 * kWords);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < 2 * kWords) {
    WideWord sum{0, 0};
    for (int r = 0; r < ranks; ++r) {
      const ExactSum& from = thread < kWords ? numbers[r].sum_of_squares : numbers[r].loss;
      sum.add(from.words[thread % kWords]);
    }
    words[thread] = sum;
  }
  sync_threads();
  StepNumbers totals;
  if (thread != 0) return totals;
  std::uint64_t flags[2] = {0, 0};
  for (int r = 0; r < ranks; ++r) {
    flags[0] |= numbers[r].sum_of_squares.flags;
    flags[1] |= numbers[r].loss.flags;
    totals.counted += numbers[r].counted;
    totals.terms += numbers[r].terms;
    totals.nonfinite_losses += numbers[r].nonfinite_losses;
    totals.nonfinite_gradients += numbers[r].nonfinite_gradients;
  }
  totals.sum_of_squares = carried(words, flags[0]);
  totals.loss = carried(words + kWords, flags[1]);
  return totals;
}

__global__ void __launch_bounds__(kDecideThreads)
    decide_kernel(DecisionRules rules, const StepNumbers* numbers, int ranks,
                  std::int64_t first_applied, DecisionMemory memory) {
  const StepNumbers totals = totals_of(numbers, ranks);
  const SpikeLimits limits = limits_of(rules, *memory.state);
  sync_threads();  // all have read the state
  if (threadIdx.x != 0) return;
  const std::int64_t rule = memory.state->applied_steps - first_applied;
  // In its place: in a thread's own memory it would make the driver reserve hundreds of MiB.
  NumericDecision& decision = memory.decided->numbers;
  decide_numbers(rules, *memory.state, limits, totals, decision);
  memory.decided->choice.apply = decision.outcome == StepOutcome::kApplied ? 1 : 0;
  memory.decided->choice.rule = static_cast<std::int32_t>(rule);
  memory.decided->choice.factor = static_cast<float>(decision.unscale * decision.coefficient);
  *memory.gradient_weight = static_cast<float>(decision.next.loss_scale.scale / rules.loss_divisor);
  *memory.state = decision.next;
}

// ---- Clipping by tensor ---------------------------------------------------------------------

constexpr unsigned kParameterThreads = 64;

__global__ void __launch_bounds__(kParameterThreads)
    add_up_parameters_kernel(const SumOfSquares* shard, const std::int32_t* parameter_of,
                             std::int64_t shard_sums, ExactSum* sums) {
  LOCKSTEP_SHARED(WideWord, words, kWords);
  const int thread = static_cast<int>(threadIdx.x);
  const auto parameter = static_cast<std::int32_t>(blockIdx.x);
  std::uint64_t flags = 0;
  WideWord sum{0, 0};
  for (std::int64_t i = 0; i < shard_sums; ++i) {
    if (parameter_of[i] != parameter) continue;
    flags |= shard[i].sum.flags;
    if (thread < kWords) sum.add(shard[i].sum.words[thread]);
  }
  if (thread < kWords) words[thread] = sum;
  sync_threads();
  if (thread == 0) sums[parameter] = carried(words, flags);
}

struct MinimumOf {
  __device__ double operator()(double a, double b) const { return a < b ? a : b; }
};

// One block: the parameters are few.
__global__ void __launch_bounds__(kAddThreads)
    clip_parameters_kernel(ClipConfig rules, const ExactSum* sums, int ranks,
                           std::int64_t parameters, DecidedStep* decided, double* references,
                           float* factors) {
  LOCKSTEP_SHARED(double, room, kWarp);
  if (decided->choice.apply == 0) return;
  const double unscale = decided->numbers.unscale;
  const double common = decided->numbers.coefficient;
  const ClipState next = decided->numbers.next.clip;
  double smallest = 1.0;
  for (std::int64_t p = threadIdx.x; p < parameters; p += kAddThreads) {
    ExactSum total;
    for (int r = 0; r < ranks; ++r)
      total.merge(sums[r * parameters + p]);
    const double norm = std::sqrt(total.value()) * unscale;
    const double reference = references == nullptr ? 0.0 : references[p];
    const TensorClip clip = clip_tensor(rules, next, common, reference, norm);
    smallest = MinimumOf{}(clip.coefficient, smallest);
    factors[p] = static_cast<float>(clip.coefficient * unscale);
    if (references != nullptr) references[p] = clip.reference;
  }
  smallest = combine_block(smallest, MinimumOf{}, room);
  if (threadIdx.x == 0) decided->numbers.coefficient = smallest;
}

// ---- Parameters of a step that was not applied ----------------------------------------------

struct alignas(16) Pack16 {
  std::uint64_t v[2];
};

__global__ void keep_unless_applied_kernel(const DecidedStep* decided, const Pack16* from,
                                           Pack16* to, std::int64_t packs) {
  if (decided->choice.apply != 0) return;
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < packs; i += step)
    to[i] = from[i];
}

// ---- The bodies -----------------------------------------------------------------------------

void add_up_step(OpContext& context, const StepMeasurements& measured, StepNumbers* numbers) {
  const auto check = [](const auto* p, std::int64_t n) {
    check_device_range(p, static_cast<std::size_t>(n) * sizeof(*p));
  };
  check(measured.shard, measured.shard_sums);
  check(measured.losses, measured.rounds);
  check(measured.own, measured.own_counts);
  check(numbers, 1);
  launch("add_up_step", add_up_step_kernel, Grid{1, kAddThreads, 0}, context.stream(), measured,
         numbers);
}

void decide(OpContext& context, const DecisionRules& rules, const StepNumbers* numbers, int ranks,
            std::int64_t first_applied, const DecisionMemory& memory) {
  check_device_range(numbers, static_cast<std::size_t>(ranks) * sizeof(StepNumbers));
  check_device_range(memory.state, sizeof(NumericState));
  check_device_range(memory.decided, sizeof(DecidedStep));
  check_device_range(memory.gradient_weight, sizeof(float));
  launch("decide", decide_kernel, Grid{1, kDecideThreads, 0}, context.stream(), rules, numbers,
         ranks, first_applied, memory);
}

void add_up_parameters(OpContext& context, const SumOfSquares* shard,
                       const std::int32_t* parameter_of, std::int64_t shard_sums,
                       std::int64_t parameters, ExactSum* sums) {
  check_device_range(shard, static_cast<std::size_t>(shard_sums) * sizeof(SumOfSquares));
  check_device_range(parameter_of, static_cast<std::size_t>(shard_sums) * sizeof(std::int32_t));
  check_device_range(sums, static_cast<std::size_t>(parameters) * sizeof(ExactSum));
  launch("add_up_parameters", add_up_parameters_kernel,
         Grid{block_count(parameters), kParameterThreads, 0}, context.stream(), shard, parameter_of,
         shard_sums, sums);
}

void clip_parameters(OpContext& context, const ClipConfig& rules, const ExactSum* sums, int ranks,
                     std::int64_t parameters, DecidedStep* decided, double* references,
                     float* factors) {
  const auto count = static_cast<std::size_t>(parameters);
  check_device_range(sums, static_cast<std::size_t>(ranks) * count * sizeof(ExactSum));
  check_device_range(decided, sizeof(DecidedStep));
  if (references != nullptr) check_device_range(references, count * sizeof(double));
  check_device_range(factors, count * sizeof(float));
  launch("clip_parameters", clip_parameters_kernel, Grid{1, kAddThreads, 0}, context.stream(),
         rules, sums, ranks, parameters, decided, references, factors);
}

// The memory of parameters is padded to whole packs.
void keep_unless_applied(OpContext& context, const DecidedStep* decided, const void* memory,
                         void* pinned, std::size_t bytes) {
  constexpr unsigned kThreads = 256;
  constexpr std::int64_t kMostBlocks = 512;  // enough to fill the bus
  const auto packs = static_cast<std::int64_t>(bytes / sizeof(Pack16));
  check_device_range(decided, sizeof(DecidedStep));
  check_device_range(memory, bytes);
  launch("keep_unless_applied", keep_unless_applied_kernel,
         Grid{block_count(std::min(kMostBlocks, ceil_div(packs, kThreads))), kThreads, 0},
         context.stream(), decided, static_cast<const Pack16*>(memory),
         static_cast<Pack16*>(pinned), packs);
}

}  // namespace

DecisionBodies decision_kernels() {
  return {add_up_step, decide, add_up_parameters, clip_parameters, keep_unless_applied};
}

}  // namespace lockstep::runtime::cuda
