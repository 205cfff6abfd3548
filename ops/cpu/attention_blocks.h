#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
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
  bool masked = false;  // holds pairs with key > query under a causal mask

  std::int64_t lanes() const { return pad_block(queries); }
};

// Calls f(ScoreBlock) for the parts with a pair to compute of the block of keys from `key` and
// queries from `query` (multiples of kScoreBlock), in order of query.
template <typename F>
void for_each_score_block(const AttentionSpec& spec, std::int64_t key, std::int64_t query, F&& f) {
  const std::int64_t keys = std::min(kScoreBlock, spec.length - key);
  const std::int64_t queries = std::min(kScoreBlock, spec.length - query);
  if (!spec.causal || key < query) {
    f(ScoreBlock{key, keys, query, queries, false});
    return;
  }
  if (key > query) return;
  for (std::int64_t cut = 0; cut < queries; cut += kDiagonalCut) {
    const std::int64_t cut_queries = std::min(kDiagonalCut, queries - cut);
    f(ScoreBlock{key, std::min(keys, cut + cut_queries), query + cut, cut_queries, true});
  }
}

// Sets the scores of pairs with key > query. scores: that of the block's first pair.
template <typename A>
void mask_scores(const ScoreBlock& block, A value, Block<A> scores) {
  for (std::int64_t k = 0; k < block.keys; ++k) {
    const std::int64_t hidden = block.key + k - block.query;  // queries before the key
    std::fill_n(scores.row(k), std::clamp<std::int64_t>(hidden, 0, block.lanes()), value);
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
