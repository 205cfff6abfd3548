#pragma once

#include <memory>
#include <mutex>

#include "runtime/data/tokenizer/added_tokens.h"
#include "runtime/data/tokenizer/bpe_model.h"
#include "runtime/data/tokenizer/tokenizer.h"
#include "runtime/data/tokenizer/tokenizer_json.h"

namespace lockstep::runtime {

// Byte-level BPE, with the ids of `tokenizers` for every text that is UTF-8; bytes that are not
// count as symbols. decode() gives back what was encoded, but for the blank of add_prefix_space and
// for characters that NFC changes.
//
// Description: {"type":"bpe","end_of_text":TOKEN or null,"tokenizer_json":"..."}.
class BpeTokenizer final : public Tokenizer {
 public:
  // json: of a tokenizer.json. end_of_text: a token's content, empty for none. Throws Error(kData),
  // `origin` first.
  BpeTokenizer(std::string json, std::string end_of_text, const std::string& origin);
  ~BpeTokenizer() override;

  std::int64_t vocab() const override { return static_cast<std::int64_t>(texts_.size()); }
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::vector<std::int32_t> encode_special(std::string_view text) const override;
  std::vector<std::int32_t> beginning() const override { return definition_.beginning; }
  std::vector<std::int32_t> ending() const override { return definition_.ending; }
  std::optional<std::int32_t> end_of_text() const override { return end_of_text_; }
  bool special(std::int32_t id) const override;
  std::size_t cut_before(std::string_view text, std::size_t at) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::string description() const override;
  std::string tokenizer_json() const override { return json_; }

 private:
  class BorrowedCache;
  void add_tokens(const std::string& origin);
  std::vector<std::int32_t> encode(std::string_view text, bool special) const;
  void encode_part(std::string_view text, PieceCache& cache, std::vector<std::int32_t>& ids) const;

  std::string json_;
  BpeDefinition definition_;
  BpeModel model_;
  AddedTokenFinder raw_tokens_, normalized_tokens_;
  std::vector<std::optional<std::string>> texts_;  // by id
  std::vector<bool> special_;                      // by id
  std::optional<std::int32_t> end_of_text_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<PieceCache>> idle_caches_;
};

// From a file or directory, see make_tokenizer(). Which token ends a text is read from a
// tokenizer_config.json beside it ("eos_token"); without one it is the first of the usual names.
std::unique_ptr<BpeTokenizer> read_bpe_tokenizer(const std::string& path);

}  // namespace lockstep::runtime
