#include "runtime/sampling/evaluate.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "core/error.h"
#include "runtime/data/tokenizer/bpe_tokenizer.h"
#include "runtime/data/tokenizer/byte_tokenizer.h"
#include "runtime/data/tokenizer/tokenizer_json.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

// Gives token t the log-likelihood -t and keeps what it is asked.
class FakeScorer final : public Scorer {
 public:
  explicit FakeScorer(std::int64_t context) : context_(context) {}
  std::int64_t context() const override { return context_; }
  std::vector<double> score(std::span<const std::int32_t> tokens, std::size_t first) override {
    EXPECT_LE(tokens.size(), static_cast<std::size_t>(context_) + 1);
    asked.emplace_back(Ids(tokens.begin(), tokens.end()), first);
    std::vector<double> scores;
    for (const std::int32_t token : tokens.subspan(first))
      scores.push_back(-static_cast<double>(token));
    return scores;
  }
  std::vector<std::pair<Ids, std::size_t>> asked;

 private:
  std::int64_t context_;
};

// Bytes 0 to 255, "<|endoftext|>" as 256 and the word "ab" as 257.
BpeTokenizer tokenizer_with_end() {
  BpeVocabulary vocabulary;
  const ByteTokenizer bytes;
  const BpeDefinition plain = parse_tokenizer_json(bytes.tokenizer_json(), "bytes");
  vocabulary = plain.vocabulary;
  vocabulary.tokens.emplace_back("<|endoftext|>", 256);
  vocabulary.tokens.emplace_back("ab", 257);
  vocabulary.merges.emplace_back("a", "b");
  return BpeTokenizer(write_tokenizer_json(vocabulary, {"<|endoftext|>"}, SplitPattern::kGpt2),
                      "<|endoftext|>", "test");
}

TEST(ScoreDocuments, PredictsEveryTokenOnceInFullWindows) {
  const BpeTokenizer tokenizer = tokenizer_with_end();
  FakeScorer scorer(4);
  const std::vector<Ids> documents = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {0, 1, 2, 3, 4}, {}, {7}};
  const TextScore score = score_documents(scorer, tokenizer, documents);
  const auto window = [](Ids tokens, std::size_t first) { return std::pair(tokens, first); };
  EXPECT_THAT(scorer.asked, ElementsAre(window({256, 0, 1, 2, 3}, 1), window({3, 4, 5, 6, 7}, 1),
                                        window({5, 6, 7, 8, 9}, 3), window({256, 0, 1, 2, 3}, 1),
                                        window({0, 1, 2, 3, 4}, 4), window({256, 7}, 1)));
  EXPECT_EQ(score.tokens, 16);
  EXPECT_EQ(score.bytes, 16);
  EXPECT_DOUBLE_EQ(score.loss, (45.0 + 10.0 + 7.0) / 16.0);
  EXPECT_DOUBLE_EQ(score.perplexity, std::exp(score.loss));
  EXPECT_DOUBLE_EQ(score.bits_per_byte, 62.0 / (16.0 * std::log(2.0)));
}

TEST(ScoreDocuments, CountsBytesOfTextAlone) {
  const BpeTokenizer tokenizer = tokenizer_with_end();
  FakeScorer scorer(8);
  const TextScore score = score_documents(scorer, tokenizer, std::vector<Ids>{{257, 256}});
  EXPECT_EQ(score.tokens, 2);
  EXPECT_EQ(score.bytes, 2);  // of "ab"
  const ByteTokenizer bytes;  // no token to begin with: the first is not predicted
  EXPECT_EQ(score_documents(scorer, bytes, std::vector<Ids>{{1, 2, 3}}).tokens, 2);
  EXPECT_THROW(score_documents(scorer, bytes, std::vector<Ids>{{1}, {}}), core::Error);
}

TEST(ScoreChoices, TakesTheTokensBehindTheContext) {
  const BpeTokenizer tokenizer = tokenizer_with_end();
  FakeScorer scorer(8);
  const std::vector<MultipleChoice> examples = {{"x  ", {"y"}, 0}, {"", {"z"}, 0}};
  score_choices(scorer, tokenizer, examples);
  ASSERT_EQ(scorer.asked.size(), 2U);
  EXPECT_EQ(scorer.asked[0], std::pair(Ids({'x', ' ', ' ', ' ', 'y'}), std::size_t{1}));
  EXPECT_EQ(scorer.asked[1], std::pair(Ids({256, ' ', 'z'}), std::size_t{1}));
}

TEST(ScoreChoices, NormalisesByCharactersAndByBytes) {
  const ByteTokenizer tokenizer;
  FakeScorer scorer(64);
  // A choice's log-likelihood is minus the sum of its bytes, 32 for the blank before it included.
  // "\x01\x01\x01..." is cheap in all, "z" (122) alone; "\u00e9" has one character of two bytes.
  const MultipleChoice plain = {"c", {std::string(3, '\x01'), "z"}, 0};  // -35, -154
  const MultipleChoice long_one = {"c", {"z", std::string(6, 'd')}, 1};  // -154 / 1, -632 / 6
  const MultipleChoice accent = {"c", {"\u00e9", "z"}, 0};               // -396 / 1 or / 2, -154
  const MultipleChoiceScore score =
      score_choices(scorer, tokenizer, std::vector{plain, long_one, accent});
  EXPECT_EQ(score.examples, 3);
  EXPECT_DOUBLE_EQ(score.accuracy, 1.0 / 3.0);
  EXPECT_DOUBLE_EQ(score.accuracy_normalised, 2.0 / 3.0);
  const MultipleChoice bytes_win = {"c", {"\u00e9\u00e9\u00e9", "\xf0"}, 0};
  // Bytes: (-32 - 3 * 364) / 6 = -187.3 against (-32 - 240) / 1; characters: / 3 = -374.7.
  const MultipleChoiceScore other = score_choices(scorer, tokenizer, std::vector{bytes_win});
  EXPECT_DOUBLE_EQ(other.accuracy_bytes, 1.0);
  EXPECT_DOUBLE_EQ(other.accuracy_normalised, 0.0);
}

TEST(ScoreChoices, TheFirstWinsAmongEqualsAndLongContextsAreCut) {
  const ByteTokenizer tokenizer;
  FakeScorer scorer(4);
  const MultipleChoice equal = {"0123456789", {"ab", "ba"}, 0};
  EXPECT_DOUBLE_EQ(score_choices(scorer, tokenizer, std::vector{equal}).accuracy, 1.0);
  EXPECT_EQ(scorer.asked[0], std::pair(Ids({'8', '9', ' ', 'a', 'b'}), std::size_t{2}));
  for (const MultipleChoice& bad :
       {MultipleChoice{"x", {"abcd"}, 0}, MultipleChoice{" ", {"a"}, 0}})
    EXPECT_THROW(score_choices(scorer, tokenizer, std::vector{bad}), core::Error);
}

TEST(ReadMultipleChoice, NamesTheLineThatIsWrong) {
  const testing::TemporaryDirectory directory;
  const std::string path = (directory.path() / "q.jsonl").string();
  const auto message = [&](const std::string& line) {
    std::ofstream(path) << R"({"context":"c","choices":["a","b"],"label":1})"
                        << "\n\n"
                        << line;
    try {
      return fmt::format("accepted {}", read_multiple_choice(path).size());
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData);
      return std::string(error.what());
    }
  };
  EXPECT_EQ(message(""), "accepted 1");
  EXPECT_THAT(message("[1]"), HasSubstr("q.jsonl:3: expected a JSON object"));
  EXPECT_THAT(message(R"({"choices":["a"],"label":0})"),
              HasSubstr("\"context\": expected a string"));
  EXPECT_THAT(message(R"({"context":"","choices":[],"label":0})"), HasSubstr("\"choices\""));
  EXPECT_THAT(message(R"({"context":"","choices":["a"],"label":1})"), HasSubstr("0 to 0, found 1"));
}

TEST(ReadDocuments, ReadsFilesAndJsonLines) {
  const testing::TemporaryDirectory directory;
  const std::string text = (directory.path() / "a.txt").string();
  std::ofstream(text) << "ab";
  const ByteTokenizer tokenizer;
  EXPECT_THAT(read_documents(text, tokenizer, "text"), ElementsAre(Ids{'a', 'b'}));
  const std::string lines = (directory.path() / "b.jsonl").string();
  std::ofstream(lines) << "{\"body\":\"x\"}\n{\"body\":\"\"}\n";
  EXPECT_THAT(read_documents(lines, tokenizer, "body"), ElementsAre(Ids{'x'}, Ids{}));
  EXPECT_THROW(read_documents(lines, tokenizer, "text"), core::Error);
}

}  // namespace
}  // namespace lockstep::runtime
