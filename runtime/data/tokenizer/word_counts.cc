#include "runtime/data/tokenizer/word_counts.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>
#include <unordered_map>

#include "core/hash.h"

namespace lockstep::runtime {

namespace {

constexpr std::size_t kChunkBytes = 4 << 20;

struct Hash {
  std::size_t operator()(std::string_view text) const { return core::hash64(text); }
};
using Counts = std::unordered_map<std::string_view, std::int64_t, Hash>;

// Cut only where a piece ends whatever stands there.
std::vector<std::string_view> cut(std::span<const std::string_view> texts) {
  std::vector<std::string_view> chunks;
  for (std::string_view text : texts) {
    while (!text.empty()) {
      std::size_t n = word_cut(text, kChunkBytes);
      if (n == 0) n = text.size();
      chunks.push_back(text.substr(0, n));
      text.remove_prefix(n);
    }
  }
  return chunks;
}

void count_chunk(std::string_view text, SplitPattern pattern, Counts& counts) {
  while (!text.empty()) {
    const std::size_t n = first_piece(pattern, text);
    ++counts[text.substr(0, n)];
    text.remove_prefix(n);
  }
}

}  // namespace

WordCounts count_words(std::span<const std::string_view> texts, SplitPattern pattern, int threads) {
  const std::vector<std::string_view> chunks = cut(texts);
  std::vector<Counts> counts(static_cast<std::size_t>(std::max(1, threads)));
  std::atomic<std::size_t> next = 0;
  {
    std::vector<std::jthread> workers;
    for (Counts& mine : counts)
      workers.emplace_back([&] {
        for (std::size_t i = next++; i < chunks.size(); i = next++)
          count_chunk(chunks[i], pattern, mine);
      });
  }
  for (std::size_t i = 1; i < counts.size(); ++i)
    for (const auto& [word, count] : counts[i])
      counts[0][word] += count;
  WordCounts sorted(counts[0].begin(), counts[0].end());
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

}  // namespace lockstep::runtime
