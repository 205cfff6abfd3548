#include "runtime/optimizer/muon_update.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "ops/cpu/scratch_sizes.h"
#include "ops/transfer.h"

namespace lockstep::runtime {

namespace {

using core::ConstTensorView;
using core::DType;
using core::Shape;
using core::TensorView;

std::size_t bytes_of(std::int64_t elements, DType dtype) {
  return static_cast<std::size_t>((elements + 63) / 64 * 64) * core::size_of(dtype);
}

// Where in the room the parts of an iteration lie, for the largest matrix of the model.
struct RoomSizes {
  std::int64_t elements = 0;  // of a matrix
  std::int64_t gram = 0;
  DType dtype;

  RoomSizes(const std::vector<MuonMatrix>& matrices, DType iteration) : dtype(iteration) {
    for (const MuonMatrix& matrix : matrices) {
      const std::int64_t side = std::min(matrix.rows, matrix.cols);
      elements = std::max(elements, matrix.elements());
      gram = std::max(gram, side * side);
    }
  }
  std::size_t total() const {
    return bytes_of(elements, dtype) + 2 * bytes_of(gram, dtype) +
           2 * bytes_of(elements, DType::kF32) + sizeof(ops::SumOfSquares);
  }
};

TensorView range(const TensorView& buffer, std::int64_t begin, std::int64_t count) {
  return buffer.slice_cols(begin, begin + count);
}

bool everything_everywhere(int zero_stage, int ranks) {
  return zero_stage == 0 || ranks == 1;
}

}  // namespace

double muon_adjustment(MuonAdjust adjust, const MuonMatrix& matrix) {
  const auto rows = static_cast<double>(matrix.rows);
  const auto cols = static_cast<double>(matrix.cols);
  return adjust == MuonAdjust::kOriginal ? std::sqrt(std::max(1.0, rows / cols))
                                         : 0.2 * std::sqrt(std::max(rows, cols));
}

MuonUpdate::MuonUpdate(const Config& config, const models::ParameterTable& table, ModelState& state,
                       const GradientBuckets& gradients, comm::Communicator& communicator,
                       ops::OpContext& context, core::MemoryTracker& memory)
    : config_(config.optimizer.muon),
      state_(state),
      communicator_(communicator),
      context_(context),
      matrices_(muon_matrices(config.model, table)),
      is_matrix_(static_cast<std::size_t>(table.size())),
      exchange_(matrices_, state.layout(),
                everything_everywhere(config.parallel.zero_stage, communicator.world_size()),
                communicator.rank()) {
  std::vector<float> adjustments;
  for (const MuonMatrix& matrix : matrices_) {
    is_matrix_[static_cast<std::size_t>(matrix.parameter)] = true;
    adjustments.push_back(static_cast<float>(muon_adjustment(config_.adjust, matrix)));
  }
  const std::size_t exchanged = bytes_of(exchange_.elements(), DType::kF32);
  gathered_ = communicator.allocate(exchanged, kRegion, memory, comm::BufferUse::kCopied);
  if (!exchange_.whole())
    held_ = communicator.allocate(exchanged, kRegion, memory, comm::BufferUse::kCopied);
  const RoomSizes sizes(matrices_, config_.ns_dtype);
  room_ = core::Buffer(memory, kRegion, sizes.total(), context.device_ref());
  std::size_t offset = 0;
  const auto take = [&](std::int64_t elements, DType dtype) {
    const std::size_t at = offset;
    offset += bytes_of(elements, dtype);
    return room_.view(dtype, Shape{elements}, at);
  };
  iteration_.iterate = take(sizes.elements, sizes.dtype);
  iteration_.gram = take(sizes.gram, sizes.dtype);
  iteration_.quintic = take(sizes.gram, sizes.dtype);
  iteration_.product = take(sizes.elements, DType::kF32);
  matrix_ = take(sizes.elements, DType::kF32);
  iteration_.squares =
      reinterpret_cast<ops::SumOfSquares*>(static_cast<std::byte*>(room_.data()) + offset);
  const std::vector<TensorRule> rules = tensor_rules(config.optimizer, table);
  std::vector<RuledRun> runs;
  for (const MuonExchange::Updated& updated : exchange_.updated())
    add_slice(gradients, updated, rules, runs);
  parts_ = {std::move(runs), context, memory};
  adjust_ = {context, memory, std::move(adjustments)};
}

std::size_t MuonUpdate::bytes(const Config& config, const models::ParameterTable& table,
                              const BucketLayout& layout, int zero_stage) {
  const std::vector<MuonMatrix> matrices = muon_matrices(config.model, table);
  const bool whole = everything_everywhere(zero_stage, layout.world_size());
  const MuonExchange exchange(matrices, layout, whole, 0);
  return bytes_of(exchange.elements(), DType::kF32) * (whole ? 1 : 2) +
         RoomSizes(matrices, config.optimizer.muon.ns_dtype).total();
}

std::size_t MuonUpdate::scratch_bytes(const Config& config, const models::ParameterTable& table,
                                      int threads) {
  const DType dtype = config.optimizer.muon.ns_dtype;
  const auto product = [&](std::int64_t m, std::int64_t n, std::int64_t k, bool of_columns,
                           bool of_rows, DType output) {
    ops::cpu::MatmulSpec spec;
    spec.m = m;
    spec.n = n;
    spec.k = k;
    spec.stride_a = of_columns ? m : k;
    spec.stride_b = of_rows ? k : n;
    spec.stride_out = n;
    spec.input = dtype;
    spec.output = output;
    spec.transpose_a = of_columns;
    spec.transpose_b = of_rows;
    return ops::cpu::matmul_scratch(spec, threads);
  };
  std::size_t bytes = 0;
  for (const MuonMatrix& matrix : muon_matrices(config.model, table)) {
    const std::int64_t side = std::min(matrix.rows, matrix.cols);
    const bool tall = matrix.rows > matrix.cols;
    const auto blocks =
        static_cast<std::size_t>((matrix.elements() + ops::kNormBlock - 1) / ops::kNormBlock);
    bytes = std::max({bytes, ops::cpu::sums_of_squares_scratch(blocks),
                      product(side, side, std::max(matrix.rows, matrix.cols), tall, !tall, dtype),
                      product(side, side, side, false, false, DType::kF32),
                      product(matrix.rows, matrix.cols, side, false, false, DType::kF32)});
  }
  return bytes;
}

TensorView MuonUpdate::gathered() const {
  return gathered_.view(DType::kF32, Shape{exchange_.elements()});
}

TensorView MuonUpdate::held() const {
  return exchange_.whole() ? gathered() : held_.view(DType::kF32, Shape{exchange_.elements()});
}

// Directions of others' matrices are needed only where they have to be sent.
void MuonUpdate::add_slice(const GradientBuckets& gradients, const MuonExchange::Updated& updated,
                           const std::vector<TensorRule>& rules, std::vector<RuledRun>& runs) {
  const auto matrix = static_cast<std::size_t>(updated.slice.matrix);
  const std::int64_t count = updated.slice.count();
  const std::int64_t in_shard = updated.segment.bucket_begin - state_.owned_begin(updated.bucket);
  const TensorView place = range(held(), updated.slice.place, count);
  for (const OwnedRun& run : state_.owned_runs(updated.bucket)) {
    if (run.segment.parameter != updated.segment.parameter) continue;
    const std::int64_t in_run = updated.segment.bucket_begin - run.segment.bucket_begin;
    if (in_run < 0 || in_run >= run.segment.count) continue;
    Slice slice;
    slice.parameter = updated.segment.parameter;
    slice.gradient = gradients.updated(updated.bucket).slice_cols(in_shard, in_shard + count);
    slice.moment = range(run.states[0], in_run, count);
    const bool needed = !exchange_.whole() || exchange_.owners()[matrix] == communicator_.rank();
    if (needed) slice.direction = place;
    slices_.push_back(slice);
    ops::UpdateRun update;
    update.gradient = place;
    update.master = range(run.master, in_run, count);
    if (!run.parameter.empty()) update.parameter = range(run.parameter, in_run, count);
    update.factor = updated.slice.matrix;
    runs.push_back({rules[static_cast<std::size_t>(updated.segment.parameter)], update});
  }
}

void MuonUpdate::average(const std::int32_t* apply, const ops::RunFactors& factors, float clamp) {
  const ops::MuonMomentum rule{config_.momentum, config_.nesterov};
  const bool on_cpu = context_.device_ref().on_cpu();
  for (const Slice& slice : slices_) {
    ops::UpdateFactor factor = factors.common;
    if (!factors.by_run.empty()) {
      const float* own = &factors.by_run[static_cast<std::size_t>(slice.parameter)];
      factor = on_cpu ? ops::UpdateFactor(*own) : ops::UpdateFactor(own);
    }
    ops::muon_momentum(context_, rule, apply, factor, clamp, slice.gradient, slice.moment,
                       slice.direction);
  }
}

// From where its slices came to, and back.
void MuonUpdate::iterate(std::size_t owned) {
  const std::vector<MuonSlice>& slices = exchange_.owned()[owned];
  const MuonMatrix& matrix = matrices_[static_cast<std::size_t>(slices.front().matrix)];
  const TensorView whole = range(matrix_, 0, matrix.elements());
  for (const MuonSlice& slice : slices)
    ops::copy(context_, range(gathered(), slice.place, slice.count()),
              range(whole, slice.begin, slice.count()));
  ops::newton_schulz(context_,
                     {whole.raw(), whole.dtype(), Shape{matrix.rows, matrix.cols}, whole.device()},
                     config_.ns_steps, config_.ns_dtype, iteration_);
  for (const MuonSlice& slice : slices)
    ops::copy(context_, range(whole, slice.begin, slice.count()),
              range(gathered(), slice.place, slice.count()));
}

void MuonUpdate::orthogonalise() {
  if (!exchange_.whole()) communicator_.all_to_all(held(), gathered(), "muon").wait();
  const auto begin = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < exchange_.owned().size(); ++i)
    iterate(i);
  iteration_seconds_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!exchange_.whole()) {
    communicator_.all_to_all(gathered(), held(), "muon").wait();
    return;
  }
  const std::int64_t count = exchange_.elements() / communicator_.world_size();
  communicator_
      .all_gather(range(gathered(), communicator_.rank() * count, count), gathered(), "muon")
      .wait();
}

void MuonUpdate::apply(const ops::UpdateRule& rule, const ops::RunFactors& factors, float clamp,
                       UpdateChanges* changes) {
  average(nullptr, factors, clamp);
  orthogonalise();
  parts_.apply(context_, rule, ops::RunFactors(adjustments()), 0.0F, changes);
}

void MuonUpdate::apply_decided(std::span<const ops::UpdateRule> rules,
                               const ops::UpdateChoice* choice, std::span<const float> by_parameter,
                               float clamp) {
  const ops::RunFactors factors = by_parameter.empty()
                                      ? ops::RunFactors(ops::UpdateFactor(&choice->factor))
                                      : ops::RunFactors(by_parameter);
  average(&choice->apply, factors, clamp);
  orthogonalise();
  parts_.apply_decided(context_, rules, choice, adjustments(), 0.0F);
}

}  // namespace lockstep::runtime
