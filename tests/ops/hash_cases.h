#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "core/hash.h"
#include "ops/hash.h"

// Messages over a base of random bytes, for tests of hash_messages(), and what xxHash itself says
// of them.
namespace lockstep::test {

using Messages = std::vector<std::vector<ops::ByteRange>>;

class HashCases {
 public:
  explicit HashCases(std::int64_t base_bytes) : base_(static_cast<std::size_t>(base_bytes)) {
    for (unsigned char& byte : base_)
      byte = static_cast<unsigned char>(below(256));
  }

  std::vector<unsigned char>& base() { return base_; }

  // A message of `bytes` bytes in `pieces` ranges (one more of none at all), each beginning on a
  // multiple of `alignment` anywhere in the base.
  std::vector<ops::ByteRange> message(std::int64_t bytes, std::int64_t pieces,
                                      std::int64_t alignment) {
    std::vector<ops::ByteRange> ranges;
    for (std::int64_t left = pieces; left > 0; --left) {
      const std::int64_t count = left == 1 ? bytes : below(2 * bytes / left + 1);
      const std::int64_t room = static_cast<std::int64_t>(base_.size()) - count;
      ranges.push_back({below(room / alignment + 1) * alignment, count});
      bytes -= count;
    }
    ranges.push_back({0, 0});
    return ranges;
  }

  // Every length from 0 to `last`: whole, in a few pieces, aligned and not.
  Messages every_length(std::int64_t last) {
    Messages messages;
    for (std::int64_t n = 0; n <= last; ++n)
      messages.push_back(message(n, 1 + n % 5, std::int64_t{1} << (n % 7)));
    return messages;
  }

  // Lengths about the borders of blocks, tiles and chunks, and a few long ones; in pieces down to
  // some bytes.
  Messages long_messages() {
    Messages messages;
    for (const std::int64_t rows : {1, 2, 16, 63, 64, 65, 128, 192, 193, 256, 257})
      for (const std::int64_t more : {-1, 0, 1, 63, 64, 65})
        messages.push_back(message(rows * ops::kHashBlock + more, 1 + below(3), 1 + below(16)));
    for (const std::int64_t alignment : {1, 2, 4, 8, 16, 128})
      messages.push_back(message(1 + below(1 << 21), 1 + below(40), alignment));
    messages.push_back(message(50000, 5000, 2));
    return messages;
  }

  std::vector<std::uint64_t> expected(const Messages& messages) const {
    std::vector<std::uint64_t> hashes;
    for (const auto& ranges : messages) {
      std::vector<unsigned char> joined;
      for (const ops::ByteRange& range : ranges)
        joined.insert(joined.end(), base_.begin() + range.offset,
                      base_.begin() + range.offset + range.bytes);
      hashes.push_back(core::hash64(joined.data(), joined.size()));
    }
    return hashes;
  }

 private:
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(bound));
  }

  std::mt19937_64 random_{20};
  std::vector<unsigned char> base_;
};

}  // namespace lockstep::test
