#include "runtime/data/tokenizer/tokenizer_files.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <system_error>

#include "core/error.h"
#include "core/mapped_file.h"
#include "runtime/data/corpus.h"
#include "runtime/data/tokenizer/bpe_tokenizer.h"
#include "runtime/data/tokenizer/tokenizer_json.h"
#include "runtime/data/tokenizer/word_counts.h"
#include "runtime/files/write_file.h"

namespace lockstep::runtime {

namespace fs = std::filesystem;

namespace {

nlohmann::json config_of(const Tokenizer& tokenizer) {
  nlohmann::json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                           {"clean_up_tokenization_spaces", false}};
  if (const auto end = tokenizer.end_of_text()) config["eos_token"] = tokenizer.decode({&*end, 1});
  if (const auto begin = tokenizer.beginning(); begin.size() == 1)
    config["bos_token"] = tokenizer.decode(begin);
  return config;
}

std::string pretty(const std::string& json) {
  return nlohmann::json::parse(json).dump(2) + "\n";
}

void refuse_another(const fs::path& file, const std::string& text) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return;
  const core::MappedFile found(file);
  const std::string_view old(reinterpret_cast<const char*>(found.data()), found.size());
  if (old == text) return;
  throw core::Error(core::ErrorKind::kConfig,
                    fmt::format("{}: expected no other tokenizer in --output, found one; give "
                                "another --output or remove it",
                                file.string()));
}

}  // namespace

void write_tokenizer_files(const Tokenizer& tokenizer, const fs::path& directory) {
  replace_file(directory / kTokenizerFile, pretty(tokenizer.tokenizer_json()));
  replace_file(directory / kTokenizerConfigFile, config_of(tokenizer).dump(2) + "\n");
}

TrainedTokenizer train_tokenizer(const TrainTokenizerOptions& options) {
  const Corpus corpus(options.inputs);
  const std::vector<std::string_view> texts = corpus.texts();
  const WordCounts words = count_words(texts, options.pattern, options.threads);
  const BpeVocabulary vocabulary = train_bpe(words, options.training);
  const std::string json =
      write_tokenizer_json(vocabulary, options.training.special, options.pattern);
  const auto& special = options.training.special;
  const BpeTokenizer tokenizer(json, special.empty() ? "" : special.front(), kTokenizerFile);
  std::error_code error;
  fs::create_directories(options.output, error);
  if (error)
    throw core::Error(
        core::ErrorKind::kData,
        fmt::format("{}: cannot be made: {}", options.output.string(), error.message()));
  refuse_another(options.output / kTokenizerFile, pretty(json));
  write_tokenizer_files(tokenizer, options.output);
  return {corpus.bytes(), words.size(), tokenizer.vocab(), options.output / kTokenizerFile};
}

}  // namespace lockstep::runtime
