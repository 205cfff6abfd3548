#include <algorithm>
#include <array>

#include "ops/cpu/parallel.h"
#include "ops/cpu/row_io.h"
#include "ops/cpu/sequence_bodies.h"

namespace lockstep::ops {
namespace {

// Blocks of the generator that are computed side by side, one to a vector lane.
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kWords = 4 * kLanes;

// The constants of Philox4x32, as in core::philox4x32.
constexpr std::uint32_t kMultiplier0 = 0xD2511F53U;
constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57U;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9U;
constexpr std::uint32_t kWeyl1 = 0xBB67AE85U;

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

using Words = std::array<std::uint32_t, kLanes>;

// One word of every counter, multiplied: the upper and the lower half of the products.
void multiply(std::uint32_t multiplier, const Words& words, Words& high, Words& low) {
#pragma omp simd
  for (std::size_t l = 0; l < kLanes; ++l) {
    const std::uint64_t product = static_cast<std::uint64_t>(multiplier) * words[l];
    high[l] = static_cast<std::uint32_t>(product >> 32);
    low[l] = static_cast<std::uint32_t>(product);
  }
}

// core::stream_block(key, block + l, sequence) for every lane l; out[w][l] is word w of lane l.
// core::philox4x32 does not vectorise over its arrays, and random bits are most of the cost of
// dropout.
void stream_blocks(core::Philox4x32Key key, std::uint64_t block, std::uint64_t sequence,
                   std::array<Words, 4>& out) {
  for (std::size_t l = 0; l < kLanes; ++l) {
    out[0][l] = static_cast<std::uint32_t>(block + l);
    out[1][l] = static_cast<std::uint32_t>((block + l) >> 32);
    out[2][l] = static_cast<std::uint32_t>(sequence);
    out[3][l] = static_cast<std::uint32_t>(sequence >> 32);
  }
  for (int round = 0; round < 10; ++round) {
    Words high0;
    Words low0;
    Words high2;
    Words low2;
    multiply(kMultiplier0, out[0], high0, low0);
    multiply(kMultiplier1, out[2], high2, low2);
#pragma omp simd
    for (std::size_t l = 0; l < kLanes; ++l) {
      out[0][l] = high2[l] ^ out[1][l] ^ key[0];
      out[1][l] = low2[l];
      out[2][l] = high0[l] ^ out[3][l] ^ key[1];
      out[3][l] = low0[l];
    }
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
}

// The factors of elements [4 * block, 4 * block + kWords).
void factors_of_blocks(const Dropout& dropout, Rule rule, std::int64_t sequence, std::int64_t block,
                       float* out) {
  std::array<Words, 4> words;
  stream_blocks(dropout.key, static_cast<std::uint64_t>(block),
                static_cast<std::uint64_t>(sequence), words);
  for (std::size_t l = 0; l < kLanes; ++l) {
    for (std::size_t w = 0; w < 4; ++w)
      out[4 * l + w] = rule.factor(words[w][l]);
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
}  // namespace lockstep::ops
