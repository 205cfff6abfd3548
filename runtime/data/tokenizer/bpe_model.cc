#include "runtime/data/tokenizer/bpe_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <queue>

#include "core/check.h"
#include "core/error.h"
#include "core/hash.h"
#include "runtime/data/tokenizer/byte_alphabet.h"

namespace lockstep::runtime {

namespace {

constexpr std::size_t kCacheEntries = 1 << 15;
constexpr std::size_t kShortPiece = 48;  // from here on a heap is faster than scanning
constexpr std::int32_t kMostIds = 1 << 24;
constexpr std::uint32_t kNoMerge = PairTable::kNone;

[[noreturn]] void fail(const std::string& origin, const std::string& message) {
  throw core::Error(core::ErrorKind::kData, fmt::format("{}: {}", origin, message));
}

}  // namespace

PieceCache::PieceCache() : entries_(kCacheEntries) {}

BpeModel::BpeModel(const BpeVocabulary& vocabulary, const std::string& origin)
    : merges_(vocabulary.merges.size()) {
  add_tokens(vocabulary, origin);
  add_merges(vocabulary, origin);
}

BpeModel::~BpeModel() = default;

void BpeModel::add_tokens(const BpeVocabulary& vocabulary, const std::string& origin) {
  for (const auto& [letters, id] : vocabulary.tokens) {
    if (id < 0 || id >= kMostIds)
      fail(origin, fmt::format("expected ids from 0 to {}, found {} for the token \"{}\"",
                               kMostIds - 1, id, letters));
    const auto at = static_cast<std::size_t>(id);
    if (at >= bytes_.size()) {
      bytes_.resize(at + 1);
      known_.resize(at + 1);
    }
    if (known_[at])
      fail(origin, fmt::format("expected an id of its own for each token, found {} for \"{}\" and "
                               "for \"{}\"",
                               id, letters, letters_of_bytes(bytes_[at])));
    known_[at] = true;
    ids_.emplace(letters, id);
    const std::optional<std::string> bytes = bytes_of_letters(letters);
    bytes_[at] = bytes ? *bytes : letters;
    if (bytes && vocabulary.ignore_merges) whole_.emplace(*bytes, id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const std::int32_t id = id_of(byte_letters()[static_cast<std::size_t>(byte)]);
    if (id < 0)
      fail(origin, fmt::format("expected a byte-level vocabulary, with a token for every byte, "
                               "found none for byte 0x{:02X} (\"{}\")",
                               byte, byte_letters()[static_cast<std::size_t>(byte)]));
    byte_ids_[static_cast<std::size_t>(byte)] = id;
  }
}

void BpeModel::add_merges(const BpeVocabulary& vocabulary, const std::string& origin) {
  std::uint32_t rank = 0;
  for (const auto& [left, right] : vocabulary.merges) {
    const std::int32_t merged = id_of(left + right);
    if (id_of(left) < 0 || id_of(right) < 0 || merged < 0)
      fail(origin, fmt::format("expected merges of tokens of the vocabulary, found merge {} of "
                               "\"{}\" and \"{}\", where \"{}\" is not in it",
                               rank, left, right,
                               id_of(left) < 0    ? left
                               : id_of(right) < 0 ? right
                                                  : left + right));
    merges_.set(id_of(left), id_of(right), {rank++, merged});
  }
}

std::int32_t BpeModel::id_of(const std::string& letters) const {
  const auto found = ids_.find(letters);
  return found == ids_.end() ? -1 : found->second;
}

void BpeModel::encode(std::string_view piece, PieceCache& cache,
                      std::vector<std::int32_t>& ids) const {
  if (piece.size() > PieceCache::kMaxBytes) {
    merge(piece, ids);
    return;
  }
  PieceCache::Entry& entry = cache.entries_[core::hash64(piece) & (kCacheEntries - 1)];
  if (entry.bytes == piece.size() &&
      std::memcmp(entry.piece.data(), piece.data(), piece.size()) == 0) {
    ids.insert(ids.end(), entry.ids.begin(), entry.ids.begin() + entry.count);
    return;
  }
  const std::size_t begin = ids.size();
  merge(piece, ids);
  const std::size_t count = ids.size() - begin;
  if (count > PieceCache::kMaxIds) return;
  std::copy(piece.begin(), piece.end(), entry.piece.begin());
  std::copy(ids.end() - static_cast<std::ptrdiff_t>(count), ids.end(), entry.ids.begin());
  entry.bytes = static_cast<std::uint8_t>(piece.size());
  entry.count = static_cast<std::uint8_t>(count);
}

void BpeModel::merge(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (!whole_.empty()) {
    if (const auto found = whole_.find(std::string(piece)); found != whole_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  const std::size_t begin = ids.size();
  for (const char c : piece)
    ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  if (piece.size() < kShortPiece) {
    merge_short(ids, begin);
  } else {
    merge_long(ids, begin);
  }
}

// The merge of each token with its right neighbour is kept; the lowest is searched anew each time.
void BpeModel::merge_short(std::vector<std::int32_t>& ids, std::size_t begin) const {
  std::array<PairTable::Merge, kShortPiece> next;
  std::int32_t* const tokens = ids.data() + begin;
  std::size_t n = ids.size() - begin;
  for (std::size_t i = 0; i + 1 < n; ++i)
    next[i] = merges_.at(tokens[i], tokens[i + 1]);
  while (n > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n; ++i)
      if (next[i].rank < next[best].rank) best = i;
    if (next[best].rank == kNoMerge) break;
    tokens[best] = next[best].id;
    std::copy(tokens + best + 2, tokens + n, tokens + best + 1);
    --n;
    if (best + 1 < n) {
      std::copy(next.begin() + static_cast<std::ptrdiff_t>(best) + 2,
                next.begin() + static_cast<std::ptrdiff_t>(n),
                next.begin() + static_cast<std::ptrdiff_t>(best) + 1);
      next[best] = merges_.at(tokens[best], tokens[best + 1]);
    }
    if (best > 0) next[best - 1] = merges_.at(tokens[best - 1], tokens[best]);
  }
  ids.resize(begin + n);
}

// O(n log n): a heap of (rank, position), whose entries are stale once the token at the position is
// gone or has another merge with its right neighbour.
void BpeModel::merge_long(std::vector<std::int32_t>& ids, std::size_t begin) const {
  struct Node {
    std::int32_t id;
    std::uint32_t previous, next;  // positions; the number of tokens: none
    std::uint32_t rank;            // of the merge with the next; kNoMerge: none, or gone
  };
  const std::size_t size = ids.size() - begin;
  LOCKSTEP_CHECK(size < std::numeric_limits<std::uint32_t>::max(), "a piece of {} bytes", size);
  const auto n = static_cast<std::uint32_t>(size);
  std::vector<Node> nodes(n);
  std::vector<std::uint64_t> heap;
  const auto key = [](std::uint32_t rank, std::uint32_t at) {
    return std::uint64_t{rank} << 32 | at;
  };
  for (std::uint32_t i = 0; i < n; ++i) {
    const std::int32_t id = ids[begin + i];
    const std::uint32_t rank = i + 1 < n ? merges_.at(id, ids[begin + i + 1]).rank : kNoMerge;
    nodes[i] = {id, i == 0 ? n : i - 1, i + 1, rank};
    if (rank != kNoMerge) heap.push_back(key(rank, i));
  }
  std::priority_queue<std::uint64_t, std::vector<std::uint64_t>, std::greater<>> queue(
      std::greater<>(), std::move(heap));
  const auto look_up = [&](std::uint32_t at) {
    Node& node = nodes[at];
    node.rank = node.next < n ? merges_.at(node.id, nodes[node.next].id).rank : kNoMerge;
    if (node.rank != kNoMerge) queue.push(key(node.rank, at));
  };
  while (!queue.empty()) {
    const auto at = static_cast<std::uint32_t>(queue.top());
    const auto rank = static_cast<std::uint32_t>(queue.top() >> 32);
    queue.pop();
    Node& node = nodes[at];
    if (node.rank != rank) continue;
    Node& right = nodes[node.next];
    node.id = merges_.at(node.id, right.id).id;
    right.rank = kNoMerge;
    node.next = right.next;
    if (node.next < n) nodes[node.next].previous = at;
    look_up(at);
    if (node.previous < n) look_up(node.previous);
  }
  ids.resize(begin);
  for (std::uint32_t at = 0; at < n; at = nodes[at].next)
    ids.push_back(nodes[at].id);
}

}  // namespace lockstep::runtime
