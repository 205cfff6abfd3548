#include "runtime/data/tokenizer/bpe_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <queue>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "core/error.h"
#include "runtime/data/tokenizer/byte_alphabet.h"

namespace lockstep::runtime {

namespace {

constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

// All words lie in one array of symbols, each linked with its neighbours of the same word; a pair
// knows where it may occur. A merge then costs as much as the pair has occurrences.
class BpeTrainer {
 public:
  BpeTrainer(const WordCounts& words, const BpeTrainingOptions& options) : options_(options) {
    add_alphabet();
    lay_out(words);
  }

  BpeVocabulary train() {
    while (static_cast<std::int64_t>(vocabulary_.tokens.size()) < options_.vocab) {
      const std::optional<std::uint64_t> pair = most_frequent();
      if (!pair) break;
      merge(*pair);
    }
    return std::move(vocabulary_);
  }

 private:
  struct Symbol {
    std::int32_t id;               // -1: merged into the symbol before it
    std::uint32_t previous, next;  // kNone at the ends of a word
    std::uint32_t word;
  };
  struct Pair {
    std::int64_t count = 0;
    std::vector<std::uint32_t> positions;  // of left symbols; some may have changed since
    bool grown = false;                    // in the merge under way
  };
  struct Candidate {
    std::int64_t count;  // when it was queued
    std::uint64_t pair;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  }

  std::int32_t id_of(const std::string& letters) {
    const auto next = static_cast<std::int32_t>(vocabulary_.tokens.size());
    const auto [found, added] = ids_.emplace(letters, next);
    if (added) vocabulary_.tokens.emplace_back(letters, next);
    return found->second;
  }

  void add_alphabet() {
    for (const std::string& token : options_.special)
      id_of(token);
    std::vector<std::string> letters(byte_letters().begin(), byte_letters().end());
    std::sort(letters.begin(), letters.end());  // UTF-8 sorts like code points
    for (const std::string& letter : letters)
      id_of(letter);
    for (std::size_t byte = 0; byte < 256; ++byte)
      byte_ids_[byte] = id_of(byte_letters()[byte]);
  }

  void lay_out(const WordCounts& words) {
    std::size_t bytes = 0;
    for (const auto& [word, count] : words)
      bytes += word.size();
    LOCKSTEP_CHECK(bytes < kNone, "{} bytes of distinct words", bytes);
    symbols_.reserve(bytes);
    for (const auto& [word, count] : words) {
      for (std::size_t i = 0; i < word.size(); ++i) {
        const auto at = static_cast<std::uint32_t>(symbols_.size());
        symbols_.push_back({byte_ids_[static_cast<unsigned char>(word[i])], i == 0 ? kNone : at - 1,
                            i + 1 == word.size() ? kNone : at + 1,
                            static_cast<std::uint32_t>(counts_.size())});
        if (i > 0) change(symbols_[at - 1].id, symbols_[at].id, count, at - 1);
      }
      counts_.push_back(count);
    }
    queue_grown();
  }

  // An occurrence at `position` appears (count > 0) or is gone.
  void change(std::int32_t left, std::int32_t right, std::int64_t count, std::uint32_t position) {
    const std::uint64_t key = key_of(left, right);
    Pair& pair = pairs_[key];
    pair.count += count;
    if (count < 0) return;
    pair.positions.push_back(position);
    if (!std::exchange(pair.grown, true)) grown_.push_back(key);
  }

  void queue_grown() {
    for (const std::uint64_t key : grown_) {
      Pair& pair = pairs_[key];
      pair.grown = false;
      if (pair.count > 0) queue_.push({pair.count, key});
    }
    grown_.clear();
  }

  // Counts only fall while a candidate waits, or it is queued again.
  std::optional<std::uint64_t> most_frequent() {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      const std::int64_t count = pairs_[top.pair].count;
      if (count == top.count) {
        if (count < std::max<std::int64_t>(1, options_.min_frequency)) return std::nullopt;
        return top.pair;
      }
      if (count > 0 && count < top.count) queue_.push({count, top.pair});
    }
    return std::nullopt;
  }

  void merge(std::uint64_t key) {
    const auto left = static_cast<std::int32_t>(key >> 32);
    const auto right = static_cast<std::int32_t>(key);
    const std::string left_text = vocabulary_.tokens[static_cast<std::size_t>(left)].first;
    const std::string right_text = vocabulary_.tokens[static_cast<std::size_t>(right)].first;
    vocabulary_.merges.emplace_back(left_text, right_text);
    const std::int32_t merged = id_of(left_text + right_text);
    std::vector<std::uint32_t> positions = std::move(pairs_[key].positions);
    pairs_[key].positions = {};
    std::sort(positions.begin(), positions.end());  // leftmost first where they overlap
    for (const std::uint32_t at : positions)
      merge_at(at, left, right, merged);
    pairs_[key].count = 0;
    queue_grown();
  }

  void merge_at(std::uint32_t at, std::int32_t left, std::int32_t right, std::int32_t merged) {
    Symbol& symbol = symbols_[at];
    if (symbol.id != left || symbol.next == kNone || symbols_[symbol.next].id != right) return;
    Symbol& gone = symbols_[symbol.next];
    const std::int64_t count = counts_[symbol.word];
    if (symbol.previous != kNone) {
      change(symbols_[symbol.previous].id, left, -count, symbol.previous);
      change(symbols_[symbol.previous].id, merged, count, symbol.previous);
    }
    if (gone.next != kNone) {
      change(right, symbols_[gone.next].id, -count, symbol.next);
      change(merged, symbols_[gone.next].id, count, at);
      symbols_[gone.next].previous = at;
    }
    symbol.id = merged;
    symbol.next = gone.next;
    gone.id = -1;
  }

  const BpeTrainingOptions& options_;
  BpeVocabulary vocabulary_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::array<std::int32_t, 256> byte_ids_{};
  std::vector<Symbol> symbols_;
  std::vector<std::int64_t> counts_;  // by word
  std::unordered_map<std::uint64_t, Pair> pairs_;
  std::vector<std::uint64_t> grown_;
  std::priority_queue<Candidate> queue_;
};

void check(const BpeTrainingOptions& options) {
  const auto fail = [](const std::string& message) {
    throw core::Error(core::ErrorKind::kConfig, message);
  };
  std::vector<std::string> special = options.special;
  std::sort(special.begin(), special.end());
  if (std::adjacent_find(special.begin(), special.end()) != special.end())
    fail("--special-token: expected every token once, found one twice");
  for (const std::string& token : special)
    if (token.empty() ||
        (token.size() <= 2 &&
         std::find(byte_letters().begin(), byte_letters().end(), token) != byte_letters().end()))
      fail(fmt::format("--special-token: expected the text of a token of its own, found \"{}\"",
                       token));
  const auto least = static_cast<std::int64_t>(256 + special.size());
  if (options.vocab < least || options.vocab > (1 << 24))
    fail(fmt::format("--vocab: expected {} (256 bytes, {} special tokens) to 2^24, found {}", least,
                     special.size(), options.vocab));
}

}  // namespace

BpeVocabulary train_bpe(const WordCounts& words, const BpeTrainingOptions& options) {
  check(options);
  return BpeTrainer(words, options).train();
}

}  // namespace lockstep::runtime
