#include "ops/cpu/attention_blocks.h"

#include <array>

#include "core/check.h"
#include "ops/cpu/block_transpose.h"

namespace lockstep::ops::cpu {

template <typename A>
void load_dropout_factors(const AttentionSpec& spec, std::int64_t sequence, std::int64_t head,
                          const ScoreBlock& block, Block<A> scratch, Block<A> factors) {
  std::array<float, kScoreBlock> run;
  for (std::int64_t q = 0; q < block.queries; ++q) {
    const std::int64_t first = (head * spec.length + block.query + q) * spec.length +
                               block.key;  // element of the sequence
    dropout_factors(spec.dropout, spec.dropout.first_sequence + sequence, first, block.keys,
                    run.data());
    std::copy_n(run.data(), block.keys, scratch.row(q));
    std::fill(scratch.row(q) + block.keys, scratch.row(q) + pad_block(block.keys), A(0));
  }
  for (std::int64_t q = block.queries; q < block.lanes(); ++q)
    std::fill_n(scratch.row(q), pad_block(block.keys), A(0));
  transpose_block<A>(block.lanes(), pad_block(block.keys), scratch, factors);
}

template void load_dropout_factors<float>(const AttentionSpec&, std::int64_t, std::int64_t,
                                          const ScoreBlock&, Block<float>, Block<float>);
template void load_dropout_factors<double>(const AttentionSpec&, std::int64_t, std::int64_t,
                                           const ScoreBlock&, Block<double>, Block<double>);

std::size_t ScratchPieces::take() {
  const std::lock_guard lock(mutex_);
  LOCKSTEP_CHECK(!free_.empty(), "attention: more work items at once than threads");
  const std::size_t index = free_.back();
  free_.pop_back();
  return index;
}

void ScratchPieces::give_back(std::size_t index) noexcept {
  const std::lock_guard lock(mutex_);
  free_.push_back(index);  // within the capacity it began with
}

}  // namespace lockstep::ops::cpu
