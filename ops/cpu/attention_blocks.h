#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <numeric>
#include <vector>

#include "ops/attention.h"
#include "ops/cpu/attention_operands.h"
#include "ops/cpu/block_product.h"
#include "ops/cpu/row_sums.h"

// What the forward and backward bodies of attention share: how scores are cut into blocks, masked
// and dropped, and who works in which scratch memory. Scores are held transposed, [keys, queries]:
// a vector lane is a query, so that the statistics of the softmax need no sum across lanes.
namespace lockstep::ops::cpu {

inline constexpr std::int64_t kScoreBlock = 64;  // queries and keys of a block of scores
// Blocks on the diagonal of a causal mask are cut again by this many queries: each cut reads keys
// up to its last query only.
inline constexpr std::int64_t kDiagonalCut = 32;

// A rectangle of scores: keys [key, key + keys) and queries [query, query + queries) of a sequence.
struct ScoreBlock {
  std::int64_t key = 0;
  std::int64_t keys = 0;
  std::int64_t query = 0;
  std::int64_t queries = 0;
  bool masked = false;      // holds pairs with key > query under a causal mask
  std::int64_t window = 0;  // above 0: holds pairs with key <= query - window, which are hidden

  std::int64_t lanes() const { return pad_block(queries); }
};

// The block with `window` set if that hides pairs of it.
inline ScoreBlock with_window(const AttentionSpec& spec, ScoreBlock block) {
  const std::int64_t last_query = block.query + block.queries - 1;
  if (spec.window > 0 && block.key <= last_query - spec.window) block.window = spec.window;
  return block;
}

// The first block of keys of which the queries from `query` see any.
inline std::int64_t first_key_block(const AttentionSpec& spec, std::int64_t query) {
  if (spec.window == 0) return 0;
  return std::max<std::int64_t>(query - spec.window + 1, 0) / kScoreBlock * kScoreBlock;
}

// Calls f(ScoreBlock) for the parts with a pair to compute of the block of keys from `key` and
// queries from `query` (multiples of kScoreBlock), in order of query.
template <typename F>
void for_each_score_block(const AttentionSpec& spec, std::int64_t key, std::int64_t query, F&& f) {
  const std::int64_t keys = std::min(kScoreBlock, spec.length - key);
  const std::int64_t queries = std::min(kScoreBlock, spec.length - query);
  if (key < first_key_block(spec, query)) return;
  if (!spec.causal || key < query) {
    f(with_window(spec, {key, keys, query, queries, false}));
    return;
  }
  if (key > query) return;
  for (std::int64_t cut = 0; cut < queries; cut += kDiagonalCut) {
    const std::int64_t cut_queries = std::min(kDiagonalCut, queries - cut);
    f(with_window(spec, {key, std::min(keys, cut + cut_queries), query + cut, cut_queries, true}));
  }
}

// Hides the pairs that a mask does: those with key > query get a score of minus infinity; those
// behind the window one so low that nothing is left of it beside any score that counts, yet finite,
// because a query may see no key at all of the first blocks that it meets. scores: that of the
// block's first pair.
template <typename A>
void mask_scores(const ScoreBlock& block, Block<A> scores) {
  constexpr A kBehind = A(-1e30);
  for (std::int64_t k = 0; block.masked && k < block.keys; ++k) {
    const std::int64_t hidden = block.key + k - block.query;  // queries before the key
    std::fill_n(scores.row(k), std::clamp<std::int64_t>(hidden, 0, block.lanes()),
                -std::numeric_limits<A>::infinity());
  }
  for (std::int64_t k = 0; block.window > 0 && k < block.keys; ++k) {
    const std::int64_t seeing = block.key + k + block.window - block.query;
    const std::int64_t first = std::clamp<std::int64_t>(seeing, 0, block.lanes());
    std::fill_n(scores.row(k) + first, block.lanes() - first, kBehind);
  }
}

// values *= factors, [rows, lanes]; the stride of factors may be 0 (one row for all).
template <typename A>
void multiply_block(Block<const A> factors, std::int64_t rows, std::int64_t lanes,
                    Block<A> values) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const A* from = factors.row(r);
    A* to = values.row(r);
#pragma omp simd
    for (std::int64_t c = 0; c < lanes; ++c)
      to[c] *= from[c];
  }
}

// Dropout factors of one head's block, [keys, lanes] like the scores; those of padding are
// unspecified but finite. scratch: [kScoreBlock, kScoreBlock].
template <typename A>
void load_dropout_factors(const AttentionSpec& spec, std::int64_t sequence, std::int64_t head,
                          const ScoreBlock& block, Block<A> scratch, Block<A> factors);

// Cuts scratch memory into arrays that begin on cache lines. Over no memory it only counts.
class ScratchCarver {
 public:
  explicit ScratchCarver(std::byte* memory) : memory_(memory) {}

  template <typename T>
  Block<T> take(std::int64_t rows, std::int64_t cols) {
    constexpr std::size_t kLine = 64;
    const std::size_t begin = bytes_;
    bytes_ += (static_cast<std::size_t>(rows * cols) * sizeof(T) + kLine - 1) / kLine * kLine;
    return {memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + begin), cols};
  }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  std::size_t bytes_ = 0;
};

// Pieces of scratch memory, as many as there are threads. Which thread takes which does not matter:
// a piece is always written before it is read.
class ScratchPieces {
 public:
  ScratchPieces(std::byte* memory, std::size_t piece_bytes, int pieces)
      : memory_(memory), piece_bytes_(piece_bytes), free_(static_cast<std::size_t>(pieces)) {
    std::iota(free_.begin(), free_.end(), std::size_t{0});
  }

  // Holds one piece for its lifetime.
  class Lease {
   public:
    explicit Lease(ScratchPieces& pieces) : pieces_(pieces), index_(pieces.take()) {}
    ~Lease() { pieces_.give_back(index_); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    std::byte* memory() const { return pieces_.memory_ + index_ * pieces_.piece_bytes_; }

   private:
    ScratchPieces& pieces_;
    std::size_t index_;
  };

 private:
  std::size_t take();
  void give_back(std::size_t index) noexcept;

  std::byte* memory_;
  std::size_t piece_bytes_;
  std::mutex mutex_;
  std::vector<std::size_t> free_;
};

}  // namespace lockstep::ops::cpu
