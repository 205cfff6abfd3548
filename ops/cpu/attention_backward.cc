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

// Working memory of one (sequence, key/value head). Dp: head width padded; L: sequence length
// rounded up to whole score blocks; w: elements to a word.
template <typename T>
struct Workspace {
  using A = AccumulateT<T>;
  using Word = WordT<T>;

  Block<Word> keys;          // [L, Dp/w]
  Block<Word> values;        // [L, Dp/w]
  Block<Word> queries;       // [L, Dp/w]: of one query head
  Block<Word> douts;         // [L, Dp/w]
  Block<Word> queries_t;     // [Dp/w, 64] for each block of queries, transposed
  Block<Word> douts_t;       // the same
  Block<Word> keys_room;     // [L/w, Dp] where stacking moves
  Block<Word> queries_room;  // the same
  Block<Word> douts_room;    // the same
  Block<Word> left_rows;     // [64 keys, 64/w queries] where rounding moves
  Block<Word> left_stacked;  // [64/w keys, 64 queries] where rounding moves
  Block<A> dkeys;            // [L, Dp]: without scale; summed over the query heads of this head
  Block<A> dvalues;          // [L, Dp]
  Block<A> dqueries;         // [L, Dp]: without scale
  Block<A> scores;           // [64 keys, 64 queries]: probabilities
  Block<A> dscores;          // [64 keys, 64 queries]
  Block<A> factors;          // [64 keys, 64 queries]: of dropout
  Block<A> factors_rows;     // [64 queries, 64 keys]
  A* lse;                    // [L]
  A* delta;                  // [L]: sum over d of dout * out
  A* out_row;                // [Dp]
  A* dout_row;               // [Dp]

  // Takes its arrays in this order; returns the bytes taken.
  std::size_t carve(std::byte* memory, std::int64_t length, std::int64_t width) {
    constexpr std::int64_t kPerWord = Operand<T>::kPerWord;
    constexpr std::int64_t kRoom = kPerWord > 1 ? 1 : 0;
    ScratchCarver carver(memory);
    for (Block<Word>* block : {&keys, &values, &queries, &douts})
      *block = carver.take<Word>(length, width / kPerWord);
    for (Block<Word>* block : {&queries_t, &douts_t})
      *block = carver.take<Word>(length / kScoreBlock * width / kPerWord, kScoreBlock);
    for (Block<Word>* block : {&keys_room, &queries_room, &douts_room})
      *block = carver.take<Word>(kRoom * length / kPerWord, width);
    left_rows = carver.take<Word>(kRoom * kScoreBlock, kScoreBlock / kPerWord);
    left_stacked = carver.take<Word>(kRoom * kScoreBlock / kPerWord, kScoreBlock);
    for (Block<A>* block : {&dkeys, &dvalues, &dqueries})
      *block = carver.take<A>(length, width);
    for (Block<A>* block : {&scores, &dscores, &factors, &factors_rows})
      *block = carver.take<A>(kScoreBlock, kScoreBlock);
    for (A** row : {&lse, &delta})
      *row = carver.take<A>(1, length).data;
    for (A** row : {&out_row, &dout_row})
      *row = carver.take<A>(1, width).data;
    return carver.bytes();
  }
};

// scores become probabilities exp(scale * score - lse).
template <typename A>
void scores_to_probabilities(std::int64_t keys, std::int64_t lanes, A scale, const A* lse,
                             Block<A> scores) {
  for (std::int64_t k = 0; k < keys; ++k) {
    A* row = scores.row(k);
#pragma omp simd
    for (std::int64_t c = 0; c < lanes; ++c)
      row[c] = vector_exp(scale * row[c] - lse[c]);
  }
}

// The backward of the softmax: dprobabilities become probability * (dprobability - delta).
template <typename A>
void probabilities_backward(std::int64_t keys, std::int64_t lanes, const A* delta,
                            Block<const A> probabilities, Block<A> dprobabilities) {
  for (std::int64_t k = 0; k < keys; ++k) {
    const A* p = probabilities.row(k);
    A* dp = dprobabilities.row(k);
#pragma omp simd
    for (std::int64_t c = 0; c < lanes; ++c)
      dp[c] = p[c] * (dp[c] - delta[c]);
  }
}

// The tensors of attention_backward.
struct Tensors {
  ConstTensorView dout, q, k, v, out, lse;
  TensorView dq, dk, dv;
};

// The backward pass of one key/value head of one sequence and of the query heads that read it.
template <typename T>
class HeadBackward {
 public:
  using A = AccumulateT<T>;
  using Word = WordT<T>;

  HeadBackward(const AttentionSpec& spec, const Tensors& tensors, std::int64_t sequence,
               std::byte* memory)
      : spec_(spec),
        tensors_(tensors),
        sequence_(sequence),
        first_row_(sequence * spec.length),
        width_(operand_width<T>(spec.head_width)),
        padded_length_(ceil_div(spec.length, kScoreBlock) * kScoreBlock),
        scale_(static_cast<A>(spec.scale)) {
    work_.carve(memory, padded_length_, width_);
  }

  static std::size_t scratch_bytes(const AttentionSpec& spec) {
    return Workspace<T>().carve(nullptr, ceil_div(spec.length, kScoreBlock) * kScoreBlock,
                                operand_width<T>(spec.head_width));
  }

  void run(std::int64_t kv_head) {
    const std::int64_t group = spec_.heads / spec_.kv_heads;
    load(tensors_.k, kv_head, work_.keys);
    load(tensors_.v, kv_head, work_.values);
    keys_ = stack_rows<T>(spec_.length, width_, work_.keys, work_.keys_room);
    std::fill_n(work_.dkeys.data, spec_.length * width_, A(0));
    std::fill_n(work_.dvalues.data, spec_.length * width_, A(0));
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
      add_query_head(head);
    store(work_.dkeys, scale_, kv_head, tensors_.dk);
    store(work_.dvalues, A(1), kv_head, tensors_.dv);
  }

 private:
  void load(ConstTensorView from, std::int64_t head, Block<Word> to) {
    load_head<T>(from, first_row_, spec_.length, head, spec_.head_width, padded_length_, width_,
                 to);
  }

  // The rows of `from` times `factor`, which they are multiplied by on the way.
  void store(Block<A> from, A factor, std::int64_t head, TensorView to) {
    for (std::int64_t r = 0; r < spec_.length; ++r) {
      A* row = from.row(r);
      for (std::int64_t d = 0; d < spec_.head_width; ++d)
        row[d] *= factor;
      store_row(row, to.row<T>(first_row_ + r) + head * spec_.head_width, spec_.head_width);
    }
  }

  void add_query_head(std::int64_t head) {
    load_query_head(head);
    load_statistics(head);
    std::fill_n(work_.dqueries.data, spec_.length * width_, A(0));
    for (std::int64_t key = 0; key < spec_.length; key += kScoreBlock)
      for (std::int64_t query = spec_.causal ? key : 0; query < spec_.length; query += kScoreBlock)
        for_each_score_block(spec_, key, query,
                             [&](const ScoreBlock& block) { add_block(block, head, query); });
    store(work_.dqueries, scale_, head, tensors_.dq);
  }

  void load_query_head(std::int64_t head) {
    load(tensors_.q, head, work_.queries);
    load(tensors_.dout, head, work_.douts);
    for (std::int64_t query = 0; query < padded_length_; query += kScoreBlock) {
      transpose_block<Word>(kScoreBlock, words_of<T>(width_), work_.queries.rows_from(query),
                            transposed(work_.queries_t, query));
      transpose_block<Word>(kScoreBlock, words_of<T>(width_), work_.douts.rows_from(query),
                            transposed(work_.douts_t, query));
    }
    queries_ = stack_rows<T>(spec_.length, width_, work_.queries, work_.queries_room);
    douts_ = stack_rows<T>(spec_.length, width_, work_.douts, work_.douts_room);
  }

  void load_statistics(std::int64_t head) {
    std::fill_n(work_.lse, padded_length_, A(0));
    std::fill_n(work_.delta, padded_length_, A(0));
    std::copy_n(tensors_.lse.row<A>(sequence_ * spec_.heads + head), spec_.length, work_.lse);
    for (std::int64_t r = 0; r < spec_.length; ++r) {
      const auto copy_row = [&](ConstTensorView heads, A* to) {
        load_row(heads.row<T>(first_row_ + r) + head * spec_.head_width, to, spec_.head_width);
      };
      // Copied even in fp32: whole rows come from afar faster than a sum reads them.
      copy_row(tensors_.out, work_.out_row);
      copy_row(tensors_.dout, work_.dout_row);
      const A* out = work_.out_row;
      const A* dout = work_.dout_row;
      work_.delta[r] =
          sum_over<A>(spec_.head_width, [=](std::int64_t d) { return dout[d] * out[d]; });
    }
  }

  Block<Word> transposed(Block<Word> all, std::int64_t query) const {
    return all.rows_from(query / kScoreBlock * words_of<T>(width_));
  }

  // Adds what the pairs of `block` give to dkeys, dvalues and dqueries.
  void add_block(const ScoreBlock& block, std::int64_t head, std::int64_t first_query) {
    const std::int64_t lanes = block.lanes();
    const std::int64_t lane = block.query - first_query;
    const ProductSize pairs{block.keys, lanes, words_of<T>(width_)};
    block_product<Word, A>(pairs, LeftFactor::kAsIs, work_.keys.rows_from(block.key),
                           transposed(work_.queries_t, first_query).columns_from(lane),
                           Result::kOverwrite, work_.scores);
    mask_scores(block, work_.scores);
    scores_to_probabilities(block.keys, lanes, scale_, work_.lse + block.query, work_.scores);
    block_product<Word, A>(pairs, LeftFactor::kAsIs, work_.values.rows_from(block.key),
                           transposed(work_.douts_t, first_query).columns_from(lane),
                           Result::kOverwrite, work_.dscores);
    softmax_backward(block, head);
    add_products(block);
  }

  void add_products(const ScoreBlock& block) {
    const std::int64_t lanes = block.lanes();
    const std::int64_t query = words_of<T>(block.query);
    const ProductSize to_keys{block.keys, width_, words_of<T>(block.queries)};
    block_product<Word, A>(
        to_keys, LeftFactor::kAsIs, round_rows<T>(block.keys, lanes, work_.scores, work_.left_rows),
        douts_.rows_from(query), Result::kAdd, work_.dvalues.rows_from(block.key));
    block_product<Word, A>(to_keys, LeftFactor::kAsIs,
                           round_rows<T>(block.keys, lanes, work_.dscores, work_.left_rows),
                           queries_.rows_from(query), Result::kAdd,
                           work_.dkeys.rows_from(block.key));
    block_product<Word, A>({block.queries, width_, words_of<T>(block.keys)},
                           LeftFactor::kTransposed,
                           round_stacked<T>(block.keys, lanes, work_.dscores, work_.left_stacked),
                           keys_.rows_from(words_of<T>(block.key)), Result::kAdd,
                           work_.dqueries.rows_from(block.query));
  }

  // From probabilities and the gradients of what multiplies the values: the gradients of the scores
  // in dscores, and in scores what multiplies the values. With dropout factors f that is f * p, its
  // gradient reaches p times f, and delta = sum of p * dp over keys holds as it is.
  void softmax_backward(const ScoreBlock& block, std::int64_t head) {
    const std::int64_t lanes = block.lanes();
    const A* delta = work_.delta + block.query;
    if (!spec_.dropout.active()) {
      probabilities_backward<A>(block.keys, lanes, delta, work_.scores, work_.dscores);
      return;
    }
    load_dropout_factors(spec_, sequence_, head, block, work_.factors_rows, work_.factors);
    multiply_block<A>(work_.factors, block.keys, lanes, work_.dscores);
    probabilities_backward<A>(block.keys, lanes, delta, work_.scores, work_.dscores);
    multiply_block<A>(work_.factors, block.keys, lanes, work_.scores);
  }

  const AttentionSpec& spec_;
  const Tensors& tensors_;
  std::int64_t sequence_;
  std::int64_t first_row_;
  std::int64_t width_;
  std::int64_t padded_length_;
  A scale_;
  Workspace<T> work_{};
  Block<Word> keys_;     // [L/w, Dp]
  Block<Word> queries_;  // [L/w, Dp]
  Block<Word> douts_;    // [L/w, Dp]
};

}  // namespace

std::size_t attention_backward_scratch(const AttentionSpec& spec, core::DType dtype, int threads) {
  return core::visit_floating(dtype, [&](auto tag) {
    return HeadBackward<decltype(tag)>::scratch_bytes(spec) * static_cast<std::size_t>(threads);
  });
}

void attention_backward(OpContext& context, const AttentionSpec& spec, ConstTensorView dout,
                        ConstTensorView q, ConstTensorView k, ConstTensorView v,
                        ConstTensorView out, ConstTensorView lse, TensorView dq, TensorView dk,
                        TensorView dv) {
  const Tensors tensors{dout, q, k, v, out, lse, dq, dk, dv};
  core::visit_floating(q.dtype(), [&](auto tag) {
    using T = decltype(tag);
    ScratchPieces pieces(
        context.scratch(attention_backward_scratch(spec, q.dtype(), context.threads())),
        HeadBackward<T>::scratch_bytes(spec), context.threads());
    parallel_chunks(context, spec.sequences * spec.kv_heads, 1,
                    [&](std::int64_t item, std::int64_t, std::int64_t) {
                      const ScratchPieces::Lease piece(pieces);
                      HeadBackward<T>(spec, tensors, item / spec.kv_heads, piece.memory())
                          .run(item % spec.kv_heads);
                    });
  });
}

}  // namespace lockstep::ops::cpu
