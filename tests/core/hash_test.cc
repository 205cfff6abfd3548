#include "core/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"

namespace lockstep::core {
namespace {

TEST(Hash, KnownAnswers) {
  EXPECT_EQ(hash64(""), 0x2d06800538d394c2ULL);  // XXH3-64 of no bytes, seed 0
  EXPECT_NE(hash64("", 1), hash64(""));
}

TEST(Hash, EveryBitCounts) {
  std::string data(1000, 'x');
  const std::uint64_t whole = hash64(data);
  for (const std::size_t i : {std::size_t{0}, std::size_t{500}, std::size_t{999}}) {
    std::string altered = data;
    altered[i] = static_cast<char>(altered[i] ^ 1);
    EXPECT_NE(hash64(altered), whole);
  }
}

TEST(Hash, StreamingEqualsWhole) {
  std::string data;
  for (int i = 0; i < 5000; ++i)
    data += static_cast<char>(i * 31);
  for (const std::size_t piece :
       {std::size_t{1}, std::size_t{7}, std::size_t{64}, std::size_t{999}, std::size_t{5000}}) {
    StreamingHash hash(42);
    for (std::size_t i = 0; i < data.size(); i += piece)
      hash.update(data.data() + i, std::min(piece, data.size() - i));
    StreamingHash moved = std::move(hash);
    EXPECT_EQ(moved.digest(), hash64(data, 42)) << piece;
    EXPECT_EQ(moved.digest(), hash64(data, 42)) << "digest must not change the state";
  }
}

TEST(Hash, HexRoundTrip) {
  EXPECT_EQ(to_hex(0xabcULL), "0000000000000abc");
  for (const std::uint64_t value : {std::uint64_t{0}, ~std::uint64_t{0}, hash64("a")})
    EXPECT_EQ(parse_hex64(to_hex(value)), value);
  for (const char* bad : {"", "123", "000000000000000g", "00000000000000000", "-000000000000001"}) {
    try {
      parse_hex64(bad);
      ADD_FAILURE() << "accepted '" << bad << "'";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kData);
    }
  }
}

}  // namespace
}  // namespace lockstep::core
