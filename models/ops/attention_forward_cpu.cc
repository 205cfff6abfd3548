#include <cmath>
#include <limits>

#include "models/ops/cpu/attention_blocks.h"
#include "models/ops/cpu/block_transpose.h"
#include "models/ops/cpu/parallel.h"
#include "models/ops/cpu/sequence_bodies.h"
#include "models/ops/cpu/vector_math.h"

namespace lockstep::models::ops::cpu {

using core::AccumulateT;
using core::ConstTensorView;
using core::TensorView;

namespace {

// Working memory of one (sequence, head). Dp: head width padded; L: sequence length.
template <typename A>
struct Workspace {
  Block<A> keys;          // [L, Dp]
  Block<A> values;        // [L, Dp]
  Block<A> rows;          // [64, Dp]: queries times scale, later the output
  Block<A> queries;       // [Dp, 64]: queries times scale, transposed
  Block<A> output;        // [Dp, 64]: sum over keys of exp(score - maximum) * value, transposed
  Block<A> scores;        // [64 keys, 64 queries]
  Block<A> factors;       // [64 keys, 64 queries]: of dropout
  Block<A> factors_rows;  // [64 queries, 64 keys]
  A* maximum;             // [64]: per query, over the keys so far
  A* sum;                 // [64]: of exp(score - maximum) over the keys so far
  A* rescale;             // [64]

  static std::size_t bytes(std::int64_t length, std::int64_t width) {
    return Carver<A>::bytes(2 * length + kScoreBlock, width) +
           Carver<A>::bytes(2 * width + 3 * kScoreBlock + 3, kScoreBlock);
  }
  Workspace(std::byte* memory, std::int64_t length, std::int64_t width) {
    Carver<A> carver(memory);
    keys = {carver.take(length, width), width};
    values = {carver.take(length, width), width};
    rows = {carver.take(kScoreBlock, width), width};
    queries = {carver.take(width, kScoreBlock), kScoreBlock};
    output = {carver.take(width, kScoreBlock), kScoreBlock};
    scores = {carver.take(kScoreBlock, kScoreBlock), kScoreBlock};
    factors = {carver.take(kScoreBlock, kScoreBlock), kScoreBlock};
    factors_rows = {carver.take(kScoreBlock, kScoreBlock), kScoreBlock};
    maximum = carver.take(1, kScoreBlock);
    sum = carver.take(1, kScoreBlock);
    rescale = carver.take(1, kScoreBlock);
  }
};

// maximum becomes the greater of itself and the scores of its query; rescale = exp(old - new). A
// NaN score is passed over here and comes back out of exp(score - maximum).
template <typename A>
void update_maximum(Block<const A> scores, std::int64_t keys, std::int64_t lanes, A* maximum,
                    A* rescale) {
  const auto greater = [](A a, A b) { return a > b ? a : b; };
  std::copy_n(maximum, lanes, rescale);
  std::int64_t k = 0;
  for (; k + 4 <= keys; k += 4) {
    const A* row0 = scores.row(k);
    const A* row1 = scores.row(k + 1);
    const A* row2 = scores.row(k + 2);
    const A* row3 = scores.row(k + 3);
#pragma omp simd
    for (std::int64_t c = 0; c < lanes; ++c)
      maximum[c] =
          greater(greater(greater(row0[c], row1[c]), greater(row2[c], row3[c])), maximum[c]);
  }
  for (; k < keys; ++k) {
    const A* row = scores.row(k);
#pragma omp simd
    for (std::int64_t c = 0; c < lanes; ++c)
      maximum[c] = greater(row[c], maximum[c]);
  }
#pragma omp simd
  for (std::int64_t c = 0; c < lanes; ++c)
    rescale[c] = vector_exp(rescale[c] - maximum[c]);
}

// scores = exp(scores - maximum); sum = sum * rescale + their sum, in order of key.
template <typename A>
void exponentiate(const A* maximum, const A* rescale, std::int64_t keys, std::int64_t lanes,
                  Block<A> scores, A* sum) {
#pragma omp simd
  for (std::int64_t c = 0; c < lanes; ++c)
    sum[c] *= rescale[c];
  for (std::int64_t k = 0; k < keys; ++k) {
    A* row = scores.row(k);
#pragma omp simd
    for (std::int64_t c = 0; c < lanes; ++c) {
      row[c] = vector_exp(row[c] - maximum[c]);
      sum[c] += row[c];
    }
  }
}

// The forward pass of one head of one sequence.
template <typename T>
class HeadForward {
 public:
  using A = AccumulateT<T>;

  HeadForward(const AttentionSpec& spec, std::int64_t sequence, std::int64_t head,
              std::byte* memory)
      : spec_(spec),
        sequence_(sequence),
        head_(head),
        first_row_(sequence * spec.length),
        width_(pad_block(spec.head_width)),
        work_(memory, spec.length, width_) {}

  void run(ConstTensorView q, ConstTensorView k, ConstTensorView v, TensorView out,
           TensorView lse) {
    const std::int64_t kv_head = head_ / (spec_.heads / spec_.kv_heads);
    load(k, 0, spec_.length, kv_head, A(1), spec_.length, work_.keys);
    load(v, 0, spec_.length, kv_head, A(1), spec_.length, work_.values);
    for (std::int64_t query = 0; query < spec_.length; query += kScoreBlock) {
      begin_queries(q, query);
      for (std::int64_t key = 0; key < spec_.length; key += kScoreBlock)
        for_each_score_block(spec_, key, query,
                             [&](const ScoreBlock& block) { add_block(block, query); });
      finish_queries(query, out, lse);
    }
  }

 private:
  void load(ConstTensorView from, std::int64_t begin, std::int64_t n, std::int64_t head, A factor,
            std::int64_t rows, Block<A> to) {
    load_head<T>(from, first_row_ + begin, n, head, spec_.head_width, factor, rows, width_, to);
  }

  void begin_queries(ConstTensorView q, std::int64_t query) {
    const std::int64_t n = std::min(kScoreBlock, spec_.length - query);
    load(q, query, n, head_, static_cast<A>(spec_.scale), pad_block(n), work_.rows);
    transpose_block<A>(pad_block(n), width_, work_.rows, work_.queries);
    std::fill_n(work_.maximum, kScoreBlock, -std::numeric_limits<A>::infinity());
    std::fill_n(work_.sum, kScoreBlock, A(0));
  }

  // One step of the online softmax over the keys of `block`.
  void add_block(const ScoreBlock& block, std::int64_t first_query) {
    const std::int64_t lane = block.query - first_query;
    const std::int64_t lanes = block.lanes();
    A* maximum = work_.maximum + lane;
    A* rescale = work_.rescale + lane;
    const Block<A> output = work_.output.columns_from(lane);
    block_product<A>({block.keys, lanes, width_}, LeftFactor::kAsIs,
                     work_.keys.rows_from(block.key), work_.queries.columns_from(lane),
                     Result::kOverwrite, work_.scores);
    if (block.masked) mask_scores(block, -std::numeric_limits<A>::infinity(), work_.scores);
    update_maximum<A>(work_.scores, block.keys, lanes, maximum, rescale);
    exponentiate(maximum, rescale, block.keys, lanes, work_.scores, work_.sum + lane);
    if (spec_.dropout.active()) {
      load_dropout_factors(spec_, sequence_, head_, block, work_.factors_rows, work_.factors);
      multiply_block<A>(work_.factors, block.keys, lanes, work_.scores);
    }
    if (block.key > 0) multiply_block<A>({rescale, 0}, width_, lanes, output);
    block_product<A>({width_, lanes, block.keys}, LeftFactor::kTransposed,
                     work_.values.rows_from(block.key), work_.scores,
                     block.key > 0 ? Result::kAdd : Result::kOverwrite, output);
  }

  void finish_queries(std::int64_t query, TensorView out, TensorView lse) {
    const std::int64_t n = std::min(kScoreBlock, spec_.length - query);
    A* lse_row = lse.row<A>(sequence_ * spec_.heads + head_) + query;
    for (std::int64_t c = 0; c < n; ++c)
      lse_row[c] = work_.maximum[c] + std::log(work_.sum[c]);
    for (std::int64_t c = 0; c < pad_block(n); ++c)
      work_.sum[c] = A(1) / work_.sum[c];
    multiply_block<A>({work_.sum, 0}, width_, pad_block(n), work_.output);
    transpose_block<A>(width_, pad_block(n), work_.output, work_.rows);
    for (std::int64_t c = 0; c < n; ++c)
      store_row(work_.rows.row(c), out.row<T>(first_row_ + query + c) + head_ * spec_.head_width,
                spec_.head_width);
  }

  const AttentionSpec& spec_;
  std::int64_t sequence_;
  std::int64_t head_;
  std::int64_t first_row_;
  std::int64_t width_;
  Workspace<A> work_;
};

}  // namespace

void attention_forward(OpContext& context, const AttentionSpec& spec, ConstTensorView q,
                       ConstTensorView k, ConstTensorView v, TensorView out, TensorView lse) {
  core::visit_floating(q.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const std::size_t bytes =
        Workspace<AccumulateT<T>>::bytes(spec.length, pad_block(spec.head_width));
    ScratchPieces pieces(context.scratch(bytes * static_cast<std::size_t>(context.threads())),
                         bytes, context.threads());
    parallel_chunks(context, spec.sequences * spec.heads, 1,
                    [&](std::int64_t item, std::int64_t, std::int64_t) {
                      const ScratchPieces::Lease piece(pieces);
                      HeadForward<T>(spec, item / spec.heads, item % spec.heads, piece.memory())
                          .run(q, k, v, out, lse);
                    });
  });
}

}  // namespace lockstep::models::ops::cpu
