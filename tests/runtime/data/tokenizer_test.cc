#include "runtime/data/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "runtime/data/tokenizer/byte_tokenizer.h"

namespace lockstep::runtime {
namespace {

using ::testing::HasSubstr;

TEST(ByteTokenizer, RoundTripsEveryByte) {
  const ByteTokenizer tokenizer;
  std::string text;
  for (int byte = 255; byte >= 0; --byte)
    text.push_back(static_cast<char>(byte));
  const std::vector<std::int32_t> ids = tokenizer.encode(text);
  ASSERT_EQ(ids.size(), 256U);
  EXPECT_EQ(ids.front(), 255);
  EXPECT_EQ(ids.back(), 0);
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_EQ(tokenizer.decode({}), "");
}

TEST(ByteTokenizer, RefusesIdsOutsideTheVocabulary) {
  const ByteTokenizer tokenizer;
  for (const std::int32_t bad : {-1, 256, 50256}) {
    const std::vector<std::int32_t> ids = {65, bad};
    try {
      tokenizer.decode(ids);
      ADD_FAILURE() << "accepted " << bad;
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData);
      EXPECT_THAT(error.what(), HasSubstr("found " + std::to_string(bad)));
    }
  }
}

TEST(Tokenizer, IsMadeFromChoiceAndDescription) {
  const auto made = make_tokenizer("bytes");
  EXPECT_EQ(made->vocab(), 256);
  const auto again = tokenizer_from_description(made->description(), "meta.json");
  EXPECT_EQ(again->description(), made->description());
  EXPECT_EQ(again->encode("ab"), made->encode("ab"));
}

TEST(Tokenizer, RefusesWhatItDoesNotHave) {
  for (const char* choice : {"bpe:", "sentencepiece:m.model", "byte", ""}) {
    try {
      make_tokenizer(choice);
      ADD_FAILURE() << "accepted " << choice;
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kConfig) << choice;
      EXPECT_THAT(error.what(), HasSubstr("--tokenizer"));
    }
  }
  for (const char* text : {"", "{", "[]", "{}", R"({"type":"bpe"})", R"({"type":7})"}) {
    try {
      tokenizer_from_description(text, "x/meta.json");
      ADD_FAILURE() << "accepted " << text;
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData) << text;
      EXPECT_THAT(error.what(), HasSubstr("x/meta.json"));
    }
  }
}

}  // namespace
}  // namespace lockstep::runtime
