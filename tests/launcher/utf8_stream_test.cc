#include "launcher/utf8_stream.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lockstep::launcher {
namespace {

std::string through(const std::string& bytes, std::size_t piece) {
  Utf8Stream stream;
  std::string out;
  for (std::size_t at = 0; at < bytes.size(); at += piece)
    out += stream.push(std::string_view(bytes).substr(at, piece));
  return out + stream.finish();
}

TEST(Utf8Stream, PassesValidTextOnInPiecesOfAnyLength) {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xED\x9F\xBF\xF4\x8F\xBF\xBFz\n";
  for (std::size_t piece = 1; piece <= text.size(); ++piece)
    EXPECT_EQ(through(text, piece), text) << piece;
}

TEST(Utf8Stream, HoldsACharacterBackUntilItIsWhole) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xE2\x82"), "a");
  EXPECT_EQ(stream.push("\xAC"), "\xE2\x82\xAC");
  EXPECT_EQ(stream.finish(), "");
}

// Examples of The Unicode Standard, tables 3-8 to 3-11.
TEST(Utf8Stream, ReplacesEveryMaximalPartOfWhatIsNoCharacter) {
  const std::string r = "\xEF\xBF\xBD";
  const std::vector<std::pair<std::string, std::string>> table = {
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", r + r + r + r + r + "A" + r + r + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", r + r + r + r + "A"},
      {"\xE2\x82", r},
      {"\xE2\x82\xE2\x82\xAC", r + "\xE2\x82\xAC"},
  };
  for (const auto& [bytes, expected] : table)
    for (std::size_t piece = 1; piece <= bytes.size(); ++piece)
      EXPECT_EQ(through(bytes, piece), expected) << "pieces of " << piece;
}

}  // namespace
}  // namespace lockstep::launcher
