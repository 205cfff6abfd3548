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

// Working memory of one (sequence, key/value head). Dp: head width padded; L: sequence length, Lp:
// rounded up to whole score blocks.
template <typename A>
struct Workspace {
  Block<A> keys;          // [L, Dp]
  Block<A> values;        // [L, Dp]
  Block<A> dkeys;         // [L, Dp]: summed over the query heads that share this head
  Block<A> dvalues;       // [L, Dp]
  Block<A> queries;       // [Lp, Dp]: times scale, of one query head
  Block<A> douts;         // [Lp, Dp]
  Block<A> dqueries;      // [L, Dp]: before the factor scale
  Block<A> queries_t;     // [Dp, 64] for each block of queries, transposed
  Block<A> douts_t;       // the same
  Block<A> scores;        // [64 keys, 64 queries]: probabilities
  Block<A> dscores;       // [64 keys, 64 queries]
  Block<A> factors;       // [64 keys, 64 queries]: of dropout
  Block<A> factors_rows;  // [64 queries, 64 keys]
  A* lse;                 // [Lp]
  A* delta;               // [Lp]: sum over d of dout * out
  A* row;                 // [Dp]

  static std::int64_t padded_length(std::int64_t length) {
    return ceil_div(length, kScoreBlock) * kScoreBlock;
  }
  static std::size_t bytes(std::int64_t length, std::int64_t width) {
    const std::int64_t padded = padded_length(length);
    return Carver<A>::bytes(5 * length + 4 * padded + 1, width) +
           Carver<A>::bytes(4 * kScoreBlock, kScoreBlock) + Carver<A>::bytes(2, padded);
  }
  Workspace(std::byte* memory, std::int64_t length, std::int64_t width) {
    const std::int64_t padded = padded_length(length);
    Carver<A> carver(memory);
    for (Block<A>* block : {&keys, &values, &dkeys, &dvalues, &dqueries})
      *block = {carver.take(length, width), width};
    for (Block<A>* block : {&queries, &douts})
      *block = {carver.take(padded, width), width};
    for (Block<A>* block : {&queries_t, &douts_t})
      *block = {carver.take(padded, width), kScoreBlock};
    for (Block<A>* block : {&scores, &dscores, &factors, &factors_rows})
      *block = {carver.take(kScoreBlock, kScoreBlock), kScoreBlock};
    lse = carver.take(1, padded);
    delta = carver.take(1, padded);
    row = carver.take(1, width);
  }
};

// scores become probabilities exp(score - lse).
template <typename A>
void scores_to_probabilities(std::int64_t keys, std::int64_t lanes, const A* lse, Block<A> scores) {
  for (std::int64_t k = 0; k < keys; ++k) {
    A* row = scores.row(k);
#pragma omp simd
    for (std::int64_t c = 0; c < lanes; ++c)
      row[c] = vector_exp(row[c] - lse[c]);
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

  HeadBackward(const AttentionSpec& spec, const Tensors& tensors, std::int64_t sequence,
               std::byte* memory)
      : spec_(spec),
        tensors_(tensors),
        sequence_(sequence),
        first_row_(sequence * spec.length),
        width_(pad_block(spec.head_width)),
        work_(memory, spec.length, width_) {}

  void run(std::int64_t kv_head) {
    const std::int64_t group = spec_.heads / spec_.kv_heads;
    load(tensors_.k, kv_head, A(1), spec_.length, work_.keys);
    load(tensors_.v, kv_head, A(1), spec_.length, work_.values);
    std::fill_n(work_.dkeys.data, spec_.length * width_, A(0));
    std::fill_n(work_.dvalues.data, spec_.length * width_, A(0));
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
      add_query_head(head);
    store(work_.dkeys, A(1), kv_head, tensors_.dk);
    store(work_.dvalues, A(1), kv_head, tensors_.dv);
  }

 private:
  void load(ConstTensorView from, std::int64_t head, A factor, std::int64_t rows, Block<A> to) {
    load_head<T>(from, first_row_, spec_.length, head, spec_.head_width, factor, rows, width_, to);
  }

  void store(Block<A> from, A factor, std::int64_t head, TensorView to) {
    for (std::int64_t r = 0; r < spec_.length; ++r) {
      A* row = from.row(r);
      if (factor != A(1)) {
        for (std::int64_t d = 0; d < spec_.head_width; ++d)
          row[d] *= factor;
      }
      store_row(row, to.row<T>(first_row_ + r) + head * spec_.head_width, spec_.head_width);
    }
  }

  void add_query_head(std::int64_t head) {
    const A scale = static_cast<A>(spec_.scale);
    load_query_head(head, scale);
    std::fill_n(work_.dqueries.data, spec_.length * width_, A(0));
    for (std::int64_t key = 0; key < spec_.length; key += kScoreBlock)
      for (std::int64_t query = spec_.causal ? key : 0; query < spec_.length; query += kScoreBlock)
        for_each_score_block(spec_, key, query,
                             [&](const ScoreBlock& block) { add_block(block, head, query); });
    store(work_.dqueries, scale, head, tensors_.dq);
  }

  void load_query_head(std::int64_t head, A scale) {
    const std::int64_t padded = Workspace<A>::padded_length(spec_.length);
    load(tensors_.q, head, scale, padded, work_.queries);
    load(tensors_.dout, head, A(1), padded, work_.douts);
    for (std::int64_t query = 0; query < padded; query += kScoreBlock) {
      transpose_block<A>(kScoreBlock, width_, work_.queries.rows_from(query),
                         transposed(work_.queries_t, query));
      transpose_block<A>(kScoreBlock, width_, work_.douts.rows_from(query),
                         transposed(work_.douts_t, query));
    }
    std::fill_n(work_.lse, padded, A(0));
    std::fill_n(work_.delta, padded, A(0));
    std::copy_n(tensors_.lse.row<A>(sequence_ * spec_.heads + head), spec_.length, work_.lse);
    for (std::int64_t r = 0; r < spec_.length; ++r) {
      load_row(tensors_.out.row<T>(first_row_ + r) + head * spec_.head_width, work_.row,
               spec_.head_width);
      const A* dout = work_.douts.row(r);
      const A* out = work_.row;
      work_.delta[r] =
          sum_over<A>(spec_.head_width, [=](std::int64_t d) { return dout[d] * out[d]; });
    }
  }

  Block<A> transposed(Block<A> all, std::int64_t query) const {
    return all.rows_from(query / kScoreBlock * width_);
  }

  // Adds what the pairs of `block` give to dkeys, dvalues and dqueries.
  void add_block(const ScoreBlock& block, std::int64_t head, std::int64_t first_query) {
    const std::int64_t lanes = block.lanes();
    const std::int64_t lane = block.query - first_query;
    const ProductSize pairs{block.keys, lanes, width_};
    block_product<A>(pairs, LeftFactor::kAsIs, work_.keys.rows_from(block.key),
                     transposed(work_.queries_t, first_query).columns_from(lane),
                     Result::kOverwrite, work_.scores);
    if (block.masked) mask_scores(block, -std::numeric_limits<A>::infinity(), work_.scores);
    scores_to_probabilities(block.keys, lanes, work_.lse + block.query, work_.scores);
    block_product<A>(pairs, LeftFactor::kAsIs, work_.values.rows_from(block.key),
                     transposed(work_.douts_t, first_query).columns_from(lane), Result::kOverwrite,
                     work_.dscores);
    softmax_backward(block, head);
    const ProductSize to_keys{block.keys, width_, block.queries};
    block_product<A>(to_keys, LeftFactor::kAsIs, work_.scores, work_.douts.rows_from(block.query),
                     Result::kAdd, work_.dvalues.rows_from(block.key));
    block_product<A>(to_keys, LeftFactor::kAsIs, work_.dscores,
                     work_.queries.rows_from(block.query), Result::kAdd,
                     work_.dkeys.rows_from(block.key));
    block_product<A>({block.queries, width_, block.keys}, LeftFactor::kTransposed, work_.dscores,
                     work_.keys.rows_from(block.key), Result::kAdd,
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
  Workspace<A> work_;
};

}  // namespace

void attention_backward(OpContext& context, const AttentionSpec& spec, ConstTensorView dout,
                        ConstTensorView q, ConstTensorView k, ConstTensorView v,
                        ConstTensorView out, ConstTensorView lse, TensorView dq, TensorView dk,
                        TensorView dv) {
  const Tensors tensors{dout, q, k, v, out, lse, dq, dk, dv};
  core::visit_floating(q.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const std::size_t bytes =
        Workspace<AccumulateT<T>>::bytes(spec.length, pad_block(spec.head_width));
    ScratchPieces pieces(context.scratch(bytes * static_cast<std::size_t>(context.threads())),
                         bytes, context.threads());
    parallel_chunks(context, spec.sequences * spec.kv_heads, 1,
                    [&](std::int64_t item, std::int64_t, std::int64_t) {
                      const ScratchPieces::Lease piece(pieces);
                      HeadBackward<T>(spec, tensors, item / spec.kv_heads, piece.memory())
                          .run(item % spec.kv_heads);
                    });
  });
}

}  // namespace lockstep::models::ops::cpu
