#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/data/tokenizer/pair_table.h"

namespace lockstep::runtime {

// A vocabulary and merges as a tokenizer.json has them, tokens written in letters
// (byte_alphabet.h).
struct BpeVocabulary {
  std::vector<std::pair<std::string, std::int32_t>> tokens;
  std::vector<std::pair<std::string, std::string>> merges;  // rank = index
  bool ignore_merges = false;  // a piece that is in the vocabulary as a whole is one token
};

// Ids of pieces met before. Not thread-safe.
class PieceCache;

// Byte-pair encoding of single pieces: among adjacent tokens the pair whose merge has the lowest
// rank is merged, the leftmost among equals, until none is left. Thread-safe.
class BpeModel {
 public:
  // Throws Error(kData) naming what is wrong: a byte without a token, an id used twice or negative,
  // a merge of or into tokens that the vocabulary lacks. `origin` begins the message.
  BpeModel(const BpeVocabulary& vocabulary, const std::string& origin);
  ~BpeModel();

  // Appends the ids of a piece.
  void encode(std::string_view piece, PieceCache& cache, std::vector<std::int32_t>& ids) const;

  std::int32_t id_of(const std::string& letters) const;  // -1: not in the vocabulary

  // One past the greatest id.
  std::int64_t vocab() const { return static_cast<std::int64_t>(bytes_.size()); }
  bool has(std::int32_t id) const { return known_[static_cast<std::size_t>(id)]; }
  const std::string& bytes_of(std::int32_t id) const {
    return bytes_[static_cast<std::size_t>(id)];
  }

 private:
  void add_tokens(const BpeVocabulary& vocabulary, const std::string& origin);
  void add_merges(const BpeVocabulary& vocabulary, const std::string& origin);
  void merge(std::string_view piece, std::vector<std::int32_t>& ids) const;
  void merge_short(std::vector<std::int32_t>& ids, std::size_t begin) const;
  void merge_long(std::vector<std::int32_t>& ids, std::size_t begin) const;

  std::unordered_map<std::string, std::int32_t> ids_;    // by letters
  std::unordered_map<std::string, std::int32_t> whole_;  // by bytes, with ignore_merges
  std::vector<std::string> bytes_;                       // by id
  std::vector<bool> known_;                              // by id
  std::array<std::int32_t, 256> byte_ids_{};
  PairTable merges_;
};

class PieceCache {
 public:
  PieceCache();

 private:
  friend class BpeModel;
  static constexpr std::size_t kMaxBytes = 24;
  static constexpr std::size_t kMaxIds = 9;
  struct Entry {
    std::array<char, kMaxBytes> piece;
    std::array<std::int32_t, kMaxIds> ids;
    std::uint8_t bytes;  // 0: empty
    std::uint8_t count;
  };
  std::vector<Entry> entries_;  // one place for each piece, by its hash
};

}  // namespace lockstep::runtime
