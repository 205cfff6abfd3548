#include <algorithm>
#include <array>

#include "models/ops/cpu/parallel.h"
#include "models/ops/cpu/row_io.h"
#include "models/ops/cpu/sequence_bodies.h"

namespace lockstep::models::ops {
namespace {

// Blocks of the generator that are computed side by side, one to a vector lane.
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kWords = 4 * kLanes;

struct Rule {
  float probability;  // in fp32, so that every caller compares the same number
  float scale;

  float factor(std::uint32_t bits) const {
    return core::to_unit_float(bits) >= probability ? scale : 0.0F;
  }
};

Rule rule_of(const Dropout& dropout) {
  return {static_cast<float>(dropout.probability),
          static_cast<float>(1.0 / (1.0 - dropout.probability))};
}

// The factors of elements [4 * block, 4 * block + kWords): lane l computes block + l, as
// core::stream_block does.
void factors_of_blocks(const Dropout& dropout, Rule rule, std::int64_t sequence, std::int64_t block,
                       float* out) {
  std::array<std::uint32_t, kLanes> word0;
  std::array<std::uint32_t, kLanes> word1;
  std::array<std::uint32_t, kLanes> word2;
  std::array<std::uint32_t, kLanes> word3;
#pragma omp simd
  for (std::size_t l = 0; l < kLanes; ++l) {
    const core::Philox4x32Block words = core::stream_block(
        dropout.key, static_cast<std::uint64_t>(block) + l, static_cast<std::uint64_t>(sequence));
    word0[l] = words[0];
    word1[l] = words[1];
    word2[l] = words[2];
    word3[l] = words[3];
  }
  for (std::size_t l = 0; l < kLanes; ++l) {
    out[4 * l + 0] = rule.factor(word0[l]);
    out[4 * l + 1] = rule.factor(word1[l]);
    out[4 * l + 2] = rule.factor(word2[l]);
    out[4 * l + 3] = rule.factor(word3[l]);
  }
}

}  // namespace

void dropout_factors(const Dropout& dropout, std::int64_t sequence, std::int64_t begin,
                     std::int64_t n, float* out) {
  const Rule rule = rule_of(dropout);
  const std::int64_t end = begin + n;
  std::array<float, kWords> factors;
  for (std::int64_t first = begin / 4 * 4; first < end; first += kWords) {
    if (first >= begin && first + kWords <= end) {
      factors_of_blocks(dropout, rule, sequence, first / 4, out + (first - begin));
      continue;
    }
    factors_of_blocks(dropout, rule, sequence, first / 4, factors.data());
    const std::int64_t from = std::max(begin, first);
    const std::int64_t to = std::min(end, first + kWords);
    std::copy(factors.data() + (from - first), factors.data() + (to - first), out + (from - begin));
  }
}

namespace cpu {
namespace {

template <typename T>
void drop_row(const Dropout& dropout, std::int64_t row, const T* x, std::int64_t cols, T* y) {
  using A = core::AccumulateT<T>;
  constexpr std::int64_t kPiece = 256;
  std::array<float, kPiece> factors;
  std::array<A, kPiece> values;
  const std::int64_t sequence = dropout.first_sequence + row / dropout.sequence_rows;
  const std::int64_t row_begin = row % dropout.sequence_rows * cols;
  for (std::int64_t c = 0; c < cols; c += kPiece) {
    const std::int64_t n = std::min(kPiece, cols - c);
    dropout_factors(dropout, sequence, row_begin + c, n, factors.data());
    load_row(x + c, values.data(), n);
    for (std::int64_t i = 0; i < n; ++i) {
      const auto s = static_cast<std::size_t>(i);
      values[s] *= static_cast<A>(factors[s]);
    }
    store_row(values.data(), y + c, n);
  }
}

}  // namespace

void dropout(OpContext& context, core::ConstTensorView x, const Dropout& dropout,
             core::TensorView y) {
  const std::int64_t cols = x.cols();
  core::visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    parallel_chunks(context, x.rows(), rows_per_chunk(cols),
                    [&](std::int64_t begin, std::int64_t end, std::int64_t) {
                      for (std::int64_t r = begin; r < end; ++r) {
                        if (dropout.active()) {
                          drop_row(dropout, r, x.row<T>(r), cols, y.row<T>(r));
                        } else if (x.row<T>(r) != y.row<T>(r)) {
                          std::copy(x.row<T>(r), x.row<T>(r) + cols, y.row<T>(r));
                        }
                      }
                    });
  });
}

}  // namespace cpu
}  // namespace lockstep::models::ops
