#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/data/tokenizer/added_tokens.h"
#include "runtime/data/tokenizer/bpe_model.h"
#include "runtime/data/tokenizer/splitter.h"

namespace lockstep::runtime {

// What a tokenizer.json of byte-level BPE says. A text is cut at the added tokens, normalised, split
// into pieces by the pattern, and each piece is encoded by the model.
struct BpeDefinition {
  BpeVocabulary vocabulary;
  std::vector<AddedToken> added;
  bool nfc = false;  // normalizer
  SplitPattern pattern = SplitPattern::kGpt2;
  bool add_prefix_space = false;  // before each part between added tokens that begins without one
  std::vector<std::int32_t> beginning;  // what the post-processor puts around a text
  std::vector<std::int32_t> ending;
};

// Throws Error(kData), `origin` first, for text that is no tokenizer.json and for every part of one
// that this version does not have, naming it.
BpeDefinition parse_tokenizer_json(const std::string& text, const std::string& origin);

// The tokenizer.json that vocab.json and merges.txt of GPT-2 stand for. Throws Error(kData).
std::string tokenizer_json_of_gpt2(const std::filesystem::path& vocab,
                                   const std::filesystem::path& merges);

// A tokenizer.json to write: special tokens first, all of them in the vocabulary.
std::string write_tokenizer_json(const BpeVocabulary& vocabulary,
                                 const std::vector<std::string>& special, SplitPattern pattern);

}  // namespace lockstep::runtime
