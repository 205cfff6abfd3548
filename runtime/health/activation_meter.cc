#include "runtime/health/activation_meter.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <mutex>
#include <string_view>

#include "core/dtype.h"
#include "ops/cpu/parallel.h"
#include "runtime/health/byte_string.h"

namespace lockstep::runtime {

namespace {

constexpr std::int64_t kBlock = 64;           // elements whose squares are added in fp64
constexpr std::int64_t kGrain = 64 * kBlock;  // of a chunk of work

const std::byte* element(core::ConstTensorView values, std::int64_t row, std::int64_t col) {
  return static_cast<const std::byte*>(values.raw()) +
         static_cast<std::size_t>(row * values.row_stride() + col) * core::size_of(values.dtype());
}

// n <= kGrain elements; the logits of fp64 tests lose their last bits here.
void measure_piece(const float* x, std::int64_t n, LayerActivity& part) {
  float greatest = 0.0F;
  bool finite = true;
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    double sum = 0.0;
    for (std::int64_t i = begin; i < std::min(n, begin + kBlock); ++i) {
      const double v = x[i];
      sum += v * v;
      greatest = std::max(greatest, std::abs(x[i]));
    }
    finite = finite && std::isfinite(sum);
    part.squares.add(sum);
  }
  part.elements += n;
  part.greatest =
      std::max<double>(part.greatest, finite ? greatest : std::numeric_limits<float>::infinity());
}

}  // namespace

void LayerActivity::merge(const LayerActivity& other) {
  squares.merge(other.squares);
  elements += other.elements;
  greatest = std::max(greatest, other.greatest);
  attention.merge(other.attention);
  if (alive.size() < other.alive.size()) alive.resize(other.alive.size());
  for (std::size_t i = 0; i < other.alive.size(); ++i)
    alive[i] = static_cast<char>(alive[i] | other.alive[i]);
}

std::string LayerActivity::packed() const {
  std::string bytes;
  append_bytes(bytes, squares);
  append_bytes(bytes, elements);
  append_bytes(bytes, greatest);
  append_bytes(bytes, attention);
  append_bytes(bytes, static_cast<std::int64_t>(alive.size()));
  std::string bits((alive.size() + 7) / 8, '\0');
  for (std::size_t i = 0; i < alive.size(); ++i) {
    if (alive[i] != 0) bits[i / 8] = static_cast<char>(bits[i / 8] | 1 << (i % 8));
  }
  return bytes + bits;
}

LayerActivity LayerActivity::unpack(std::string_view& bytes) {
  LayerActivity layer;
  layer.squares = take_bytes<ops::ExactSum>(bytes);
  layer.elements = take_bytes<std::int64_t>(bytes);
  layer.greatest = take_bytes<double>(bytes);
  layer.attention = take_bytes<AttentionScores>(bytes);
  layer.alive.resize(static_cast<std::size_t>(take_bytes<std::int64_t>(bytes)));
  const std::string_view bits = bytes.substr(0, (layer.alive.size() + 7) / 8);
  bytes.remove_prefix(bits.size());
  for (std::size_t i = 0; i < layer.alive.size(); ++i)
    layer.alive[i] = static_cast<char>(bits[i / 8] >> (i % 8) & 1);
  return layer;
}

ActivationMeter::ActivationMeter(const models::ModelConfig& config, ops::OpContext& context)
    : config_(config), context_(context) {
  clear();
}

void ActivationMeter::clear() {
  layers_.assign(static_cast<std::size_t>(config_.layers) + 2, {});
}

void ActivationMeter::see(const models::ActivationView& view) {
  LayerActivity& layer = layers_[static_cast<std::size_t>(view.layer + 1)];
  const bool head = view.layer == static_cast<int>(config_.layers);
  if (view.name == "output" || (head && view.name == "logits")) see_output(view.values, layer);
  if (head || view.layer < 0) return;
  if (view.name == "mlp.activated") see_units(view.values, layer);
  if (view.name == (config_.qk_norm ? "attention.qk_normed" : "attention.qkv"))
    see_attention(view.values, view.layer, layer);
}

void ActivationMeter::see_output(core::ConstTensorView values, LayerActivity& layer) const {
  const std::int64_t cols = values.contiguous() ? values.elements() : values.cols();
  const std::int64_t rows = values.elements() / std::max<std::int64_t>(1, cols);
  std::mutex mutex;
  for (std::int64_t row = 0; row < rows; ++row) {
    ops::cpu::parallel_chunks(
        context_, cols, kGrain, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
          std::array<float, kGrain> piece;
          const std::int64_t n = end - begin;
          core::convert(values.dtype(), element(values, row, begin), core::DType::kF32,
                        piece.data(), static_cast<std::size_t>(n));
          LayerActivity part;
          measure_piece(piece.data(), n, part);
          const std::lock_guard lock(mutex);
          layer.merge(part);
        });
  }
}

void ActivationMeter::see_units(core::ConstTensorView values, LayerActivity& layer) const {
  layer.alive.resize(static_cast<std::size_t>(values.cols()));
  ops::cpu::parallel_chunks(
      context_, values.cols(), 256, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
        std::array<float, 256> piece;
        char* const alive = layer.alive.data() + begin;
        for (std::int64_t row = 0; row < values.rows(); ++row) {
          core::convert(values.dtype(), element(values, row, begin), core::DType::kF32,
                        piece.data(), static_cast<std::size_t>(end - begin));
          for (std::int64_t i = 0; i < end - begin; ++i) {
            const bool within = std::abs(piece[static_cast<std::size_t>(i)]) <= kDead;
            alive[i] = static_cast<char>(alive[i] | (within ? 0 : 1));
          }
        }
      });
}

void ActivationMeter::see_attention(core::ConstTensorView qk, int block,
                                    LayerActivity& layer) const {
  const std::int64_t length = std::min(config_.context, qk.rows());
  layer.attention.merge(measure_attention(context_, config_, block, qk.slice_rows(0, length)));
}

}  // namespace lockstep::runtime
