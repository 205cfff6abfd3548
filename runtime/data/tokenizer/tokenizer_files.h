#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/data/tokenizer/bpe_trainer.h"
#include "runtime/data/tokenizer/splitter.h"
#include "runtime/data/tokenizer/tokenizer.h"

namespace lockstep::runtime {

inline constexpr const char* kTokenizerFile = "tokenizer.json";
inline constexpr const char* kTokenizerConfigFile = "tokenizer_config.json";

// Writes tokenizer.json and tokenizer_config.json, as `tokenizers` and `transformers` read them,
// into a directory that exists, and syncs them. The tokenizer of bytes is written as a BPE without
// merges. Throws Error(kData).
void write_tokenizer_files(const Tokenizer& tokenizer, const std::filesystem::path& directory);

struct TrainTokenizerOptions {
  std::vector<std::filesystem::path> inputs;  // texts, or directories of texts; see corpus.h
  std::filesystem::path output;               // the directory to write into; made if missing
  SplitPattern pattern = SplitPattern::kGpt4;
  BpeTrainingOptions training;
  int threads = 1;
};

struct TrainedTokenizer {
  std::uint64_t bytes = 0;     // of text
  std::uint64_t words = 0;     // distinct pieces
  std::int64_t vocab = 0;      // may be smaller than asked: no pair was left
  std::filesystem::path file;  // the tokenizer.json
};

// `lockstep data train-tokenizer`. Equal input gives equal files at any number of threads. Throws
// Error(kConfig) for bad options and for an output that holds another tokenizer.json, Error(kData)
// for what cannot be read or written.
TrainedTokenizer train_tokenizer(const TrainTokenizerOptions& options);

}  // namespace lockstep::runtime
