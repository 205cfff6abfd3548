#include <cmath>
#include <limits>

#include "ops/cpu/attention_blocks.h"
#include "ops/cpu/block_transpose.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row_io.h"
#include "ops/cpu/scratch_sizes.h"
#include "ops/cpu/sequence_bodies.h"
#include "ops/cpu/vector_math.h"

namespace lockstep::ops::cpu {

using core::AccumulateT;
using core::ConstTensorView;
using core::TensorView;

namespace {

// Working memory of one (sequence, head). Dp: head width padded; L: sequence length padded; w:
// elements to a word.
template <typename T>
struct Workspace {
  using A = AccumulateT<T>;
  using Word = WordT<T>;

  Block<Word> keys;           // [L, Dp/w]
  Block<Word> values_rows;    // [L, Dp/w]
  Block<Word> values_room;    // [L/w, Dp] where stacking moves
  Block<Word> queries_rows;   // [64, Dp/w]
  Block<Word> queries;        // [Dp/w, 64]: transposed
  Block<Word> probabilities;  // [64/w keys, 64 queries] where stacking moves
  Block<A> scores;            // [64 keys, 64 queries]
  Block<A> output;            // [Dp, 64]: sum over keys of exp(score - maximum) * value, transposed
  Block<A> output_rows;       // [64, Dp]
  Block<A> factors;           // [64 keys, 64 queries]: of dropout
  Block<A> factors_rows;      // [64 queries, 64 keys]
  A* maximum;                 // [64]: per query, over the unscaled scores of the keys so far
  A* sum;                     // [64]: of exp(score - maximum) over the keys so far
  A* rescale;                 // [64]

  // Takes its arrays in this order; returns the bytes taken.
  std::size_t carve(std::byte* memory, std::int64_t length, std::int64_t width) {
    constexpr std::int64_t kPerWord = Operand<T>::kPerWord;
    constexpr std::int64_t kRoom = kPerWord > 1 ? 1 : 0;
    ScratchCarver carver(memory);
    keys = carver.take<Word>(length, width / kPerWord);
    values_rows = carver.take<Word>(length, width / kPerWord);
    values_room = carver.take<Word>(kRoom * length / kPerWord, width);
    queries_rows = carver.take<Word>(kScoreBlock, width / kPerWord);
    queries = carver.take<Word>(width / kPerWord, kScoreBlock);
    probabilities = carver.take<Word>(kRoom * kScoreBlock / kPerWord, kScoreBlock);
    scores = carver.take<A>(kScoreBlock, kScoreBlock);
    output = carver.take<A>(width, kScoreBlock);
    output_rows = carver.take<A>(kScoreBlock, width);
    factors = carver.take<A>(kScoreBlock, kScoreBlock);
    factors_rows = carver.take<A>(kScoreBlock, kScoreBlock);
    maximum = carver.take<A>(1, kScoreBlock).data;
    sum = carver.take<A>(1, kScoreBlock).data;
    rescale = carver.take<A>(1, kScoreBlock).data;
    return carver.bytes();
  }
};

// maximum becomes the greater of itself and the scores of its query; rescale = exp(scale * (old -
// new)). A NaN score is passed over here and comes back out of exp(score - maximum).
template <typename A>
void update_maximum(Block<const A> scores, A scale, std::int64_t keys, std::int64_t lanes,
                    A* maximum, A* rescale) {
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
    rescale[c] = vector_exp(scale * (rescale[c] - maximum[c]));
}

// scores = exp(scale * (scores - maximum)); sum = sum * rescale + their sum, in order of key.
template <typename A>
void exponentiate(const A* maximum, const A* rescale, A scale, std::int64_t keys,
                  std::int64_t lanes, Block<A> scores, A* sum) {
#pragma omp simd
  for (std::int64_t c = 0; c < lanes; ++c)
    sum[c] *= rescale[c];
  for (std::int64_t k = 0; k < keys; ++k) {
    A* row = scores.row(k);
#pragma omp simd
    for (std::int64_t c = 0; c < lanes; ++c) {
      row[c] = vector_exp(scale * (row[c] - maximum[c]));
      sum[c] += row[c];
    }
  }
}

// The forward pass of one head of one sequence.
template <typename T>
class HeadForward {
 public:
  using A = AccumulateT<T>;
  using Word = WordT<T>;

  HeadForward(const AttentionSpec& spec, std::int64_t sequence, std::int64_t head,
              std::byte* memory)
      : spec_(spec),
        sequence_(sequence),
        head_(head),
        first_row_(sequence * spec.length),
        width_(operand_width<T>(spec.head_width)),
        scale_(static_cast<A>(spec.scale)) {
    work_.carve(memory, pad_block(spec.length), width_);
  }

  static std::size_t scratch_bytes(const AttentionSpec& spec) {
    return Workspace<T>().carve(nullptr, pad_block(spec.length), operand_width<T>(spec.head_width));
  }

  void run(ConstTensorView q, ConstTensorView k, ConstTensorView v, TensorView out,
           TensorView lse) {
    const std::int64_t kv_head = head_ / (spec_.heads / spec_.kv_heads);
    load(k, 0, spec_.length, kv_head, work_.keys);
    load(v, 0, spec_.length, kv_head, work_.values_rows);
    values_ = stack_rows<T>(spec_.length, width_, work_.values_rows, work_.values_room);
    for (std::int64_t query = 0; query < spec_.length; query += kScoreBlock) {
      begin_queries(q, query);
      first_key_ = first_key_block(spec_, query);
      for (std::int64_t key = first_key_; key < spec_.length; key += kScoreBlock)
        for_each_score_block(spec_, key, query,
                             [&](const ScoreBlock& block) { add_block(block, query); });
      finish_queries(query, out, lse);
    }
  }

 private:
  void load(ConstTensorView from, std::int64_t begin, std::int64_t n, std::int64_t head,
            Block<Word> to) {
    load_head<T>(from, first_row_ + begin, n, head, spec_.head_width, pad_block(n), width_, to);
  }

  void begin_queries(ConstTensorView q, std::int64_t query) {
    const std::int64_t n = std::min(kScoreBlock, spec_.length - query);
    load(q, query, n, head_, work_.queries_rows);
    transpose_block<Word>(pad_block(n), words_of<T>(width_), work_.queries_rows, work_.queries);
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
    block_product<Word, A>({block.keys, lanes, words_of<T>(width_)}, LeftFactor::kAsIs,
                           work_.keys.rows_from(block.key), work_.queries.columns_from(lane),
                           Result::kOverwrite, work_.scores);
    mask_scores(block, work_.scores);
    update_maximum<A>(work_.scores, scale_, block.keys, lanes, maximum, rescale);
    exponentiate(maximum, rescale, scale_, block.keys, lanes, work_.scores, work_.sum + lane);
    if (spec_.dropout.active()) {
      load_dropout_factors(spec_, sequence_, head_, block, work_.factors_rows, work_.factors);
      multiply_block<A>(work_.factors, block.keys, lanes, work_.scores);
    }
    const Block<Word> probabilities =
        round_stacked<T>(block.keys, lanes, work_.scores, work_.probabilities);
    if (block.key > first_key_) multiply_block<A>({rescale, 0}, width_, lanes, output);
    block_product<Word, A>({width_, lanes, words_of<T>(block.keys)}, LeftFactor::kTransposed,
                           values_.rows_from(words_of<T>(block.key)), probabilities,
                           block.key > first_key_ ? Result::kAdd : Result::kOverwrite, output);
  }

  void finish_queries(std::int64_t query, TensorView out, TensorView lse) {
    const std::int64_t n = std::min(kScoreBlock, spec_.length - query);
    A* lse_row = lse.row<A>(sequence_ * spec_.heads + head_) + query;
    for (std::int64_t c = 0; c < n; ++c)
      lse_row[c] = scale_ * work_.maximum[c] + std::log(work_.sum[c]);
    for (std::int64_t c = 0; c < pad_block(n); ++c)
      work_.sum[c] = A(1) / work_.sum[c];
    multiply_block<A>({work_.sum, 0}, width_, pad_block(n), work_.output);
    transpose_block<A>(width_, pad_block(n), work_.output, work_.output_rows);
    for (std::int64_t c = 0; c < n; ++c)
      store_row(work_.output_rows.row(c),
                out.row<T>(first_row_ + query + c) + head_ * spec_.head_width, spec_.head_width);
  }

  const AttentionSpec& spec_;
  std::int64_t sequence_;
  std::int64_t head_;
  std::int64_t first_row_;
  std::int64_t width_;
  std::int64_t first_key_ = 0;  // where the keys begin that the queries at work see
  A scale_;
  Workspace<T> work_{};
  Block<Word> values_;  // [L/w, Dp]
};

}  // namespace

std::size_t attention_forward_scratch(const AttentionSpec& spec, core::DType dtype, int threads) {
  return core::visit_floating(dtype, [&](auto tag) {
    return HeadForward<decltype(tag)>::scratch_bytes(spec) * static_cast<std::size_t>(threads);
  });
}

void attention_forward(OpContext& context, const AttentionSpec& spec, ConstTensorView q,
                       ConstTensorView k, ConstTensorView v, TensorView out, TensorView lse) {
  core::visit_floating(q.dtype(), [&](auto tag) {
    using T = decltype(tag);
    ScratchPieces pieces(
        context.scratch(attention_forward_scratch(spec, q.dtype(), context.threads())),
        HeadForward<T>::scratch_bytes(spec), context.threads());
    parallel_chunks(context, spec.sequences * spec.heads, 1,
                    [&](std::int64_t item, std::int64_t, std::int64_t) {
                      const ScratchPieces::Lease piece(pieces);
                      HeadForward<T>(spec, item / spec.heads, item % spec.heads, piece.memory())
                          .run(q, k, v, out, lse);
                    });
  });
}

}  // namespace lockstep::ops::cpu
