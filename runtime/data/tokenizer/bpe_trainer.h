#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/data/tokenizer/bpe_model.h"
#include "runtime/data/tokenizer/word_counts.h"

namespace lockstep::runtime {

struct BpeTrainingOptions {
  std::int64_t vocab = 0;  // tokens in all
  std::vector<std::string> special = {"<|endoftext|>"};
  std::int64_t min_frequency = 1;  // of the rarest pair to merge
};

// Learns byte-pair encoding with the rule of the trainer of `tokenizers`: ids go to the special
// tokens in order, to the 256 bytes by the code points of their letters, then to merges; each merge
// takes the pair of adjacent tokens within a word that occurs most often (words weighted by their
// counts, overlapping occurrences counted), among equals the one with the smallest left id, then
// right id. Where a merge makes the text of a token that exists, it is recorded and no token is
// added. Ends early when no pair is left.
//
// Throws Error(kConfig) for a vocabulary without room for the special tokens and bytes, or a special
// token that is empty or given twice.
BpeVocabulary train_bpe(const WordCounts& words, const BpeTrainingOptions& options);

}  // namespace lockstep::runtime
