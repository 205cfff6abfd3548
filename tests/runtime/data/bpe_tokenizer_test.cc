#include "runtime/data/tokenizer/bpe_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "core/error.h"
#include "runtime/data/tokenizer/bpe_trainer.h"
#include "runtime/data/tokenizer/byte_alphabet.h"
#include "runtime/data/tokenizer/splitter.h"
#include "runtime/data/tokenizer/tokenizer_files.h"
#include "runtime/data/tokenizer/word_counts.h"
#include "tests/support/recorded.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<std::int32_t>;
using Pieces = std::vector<std::string>;

Pieces pieces_of(SplitPattern pattern, std::string_view text) {
  Pieces pieces;
  while (!text.empty()) {
    const std::size_t n = first_piece(pattern, text);
    pieces.emplace_back(text.substr(0, n));
    text.remove_prefix(n);
  }
  return pieces;
}

TEST(Splitter, CutsAsThePatternsDo) {
  using P = SplitPattern;
  EXPECT_THAT(pieces_of(P::kGpt2, "a   b"), ElementsAre("a", "  ", " b"));
  EXPECT_THAT(pieces_of(P::kGpt2, "I'M it's"), ElementsAre("I", "'", "M", " it", "'s"));
  EXPECT_THAT(pieces_of(P::kGpt4, "I'M it's"), ElementsAre("I", "'M", " it", "'s"));
  EXPECT_THAT(pieces_of(P::kO200k, "I'M it's"), ElementsAre("I'M", " it's"));
  EXPECT_THAT(pieces_of(P::kGpt2, "line\n\n  next \n"),
              ElementsAre("line", "\n\n ", " next", " \n"));
  EXPECT_THAT(pieces_of(P::kGpt4, "line\n\n  next \n"),
              ElementsAre("line", "\n\n", " ", " next", " \n"));
  EXPECT_THAT(pieces_of(P::kGpt4, "tab\t\tx"), ElementsAre("tab", "\t", "\tx"));
  EXPECT_THAT(pieces_of(P::kGpt2, "foo_bar(x);\r\n"),
              ElementsAre("foo", "_", "bar", "(", "x", ");", "\r\n"));
  EXPECT_THAT(pieces_of(P::kGpt4, "foo_bar(x);\r\n"), ElementsAre("foo", "_bar", "(x", ");\r\n"));
  EXPECT_THAT(pieces_of(P::kGpt4, "x1234567"), ElementsAre("x", "123", "456", "7"));
  EXPECT_THAT(pieces_of(P::kQwen2, "x12"), ElementsAre("x", "1", "2"));
  EXPECT_THAT(pieces_of(P::kO200k, "e\u0301te fooBAR"), ElementsAre("e\u0301te", " foo", "BAR"));
  EXPECT_THAT(pieces_of(P::kGpt4, "a\xff\xfe b"), ElementsAre("a", "\xff\xfe", " b"));
}

// Every place that word_cut names gives the pieces of the whole.
TEST(Splitter, CutsAWordWithoutChangingPieces) {
  const std::string text = "A  word\n\n and1 \t2nd's, \u4e2d\u6587 x\n  ;\r\nend\xff z ";
  for (const SplitPattern pattern :
       {SplitPattern::kGpt2, SplitPattern::kGpt4, SplitPattern::kQwen2, SplitPattern::kO200k}) {
    for (std::size_t at = 1; at < text.size(); ++at) {
      const std::size_t cut = word_cut(text, at);
      if (cut == 0) continue;
      Pieces joined = pieces_of(pattern, std::string_view(text).substr(0, cut));
      for (const std::string& piece : pieces_of(pattern, std::string_view(text).substr(cut)))
        joined.push_back(piece);
      EXPECT_EQ(joined, pieces_of(pattern, text)) << "cut at " << cut;
    }
  }
}

// The trainer as a textbook has it: everything is counted again after each merge.
BpeVocabulary textbook_trainer(const WordCounts& words, std::int64_t vocab) {
  BpeVocabulary learned;
  std::map<std::string, std::int32_t> ids;
  const auto id_of = [&](const std::string& text) {
    const auto [at, added] = ids.emplace(text, static_cast<std::int32_t>(ids.size()));
    if (added) learned.tokens.emplace_back(text, at->second);
    return at->second;
  };
  id_of("<|endoftext|>");
  const std::set<std::string> letters(byte_letters().begin(), byte_letters().end());
  for (const std::string& letter : letters)
    id_of(letter);
  std::vector<std::pair<Ids, std::int64_t>> split;
  for (const auto& [word, count] : words) {
    split.emplace_back(Ids(), count);
    for (const char c : word)
      split.back().first.push_back(id_of(byte_letters()[static_cast<unsigned char>(c)]));
  }
  while (static_cast<std::int64_t>(ids.size()) < vocab) {
    std::map<std::pair<std::int32_t, std::int32_t>, std::int64_t> counts;
    for (const auto& [word, count] : split)
      for (std::size_t i = 0; i + 1 < word.size(); ++i)
        counts[{word[i], word[i + 1]}] += count;
    if (counts.empty()) break;
    auto best = counts.begin();
    for (auto at = counts.begin(); at != counts.end(); ++at)
      if (at->second > best->second) best = at;
    const auto [left, right] = best->first;
    const std::string a = learned.tokens[static_cast<std::size_t>(left)].first;
    const std::string b = learned.tokens[static_cast<std::size_t>(right)].first;
    learned.merges.emplace_back(a, b);
    const std::int32_t merged = id_of(a + b);
    for (auto& [word, count] : split) {
      Ids next;
      for (std::size_t i = 0; i < word.size(); ++i) {
        const bool both = i + 1 < word.size() && word[i] == left && word[i + 1] == right;
        next.push_back(both ? merged : word[i]);
        if (both) ++i;
      }
      word = next;
    }
  }
  return learned;
}

std::string random_text(std::mt19937& rng, std::size_t length, const std::string& letters) {
  std::string text;
  for (std::size_t i = 0; i < length; ++i)
    text.push_back(letters[rng() % letters.size()]);
  return text;
}

TEST(BpeTrainer, LearnsWhatATextbookLearns) {
  std::mt19937 rng(5);
  for (int round = 0; round < 40; ++round) {
    const std::string letters = round % 2 == 0 ? "aab  " : "abcdeab \xc3\xa9\xff";
    const std::string text = random_text(rng, 400, letters);
    const std::vector<std::string_view> texts = {text};
    const WordCounts words = count_words(texts, SplitPattern::kGpt2, 1 + round % 3);
    BpeTrainingOptions options;
    options.vocab = 257 + round;
    const BpeVocabulary learned = train_bpe(words, options);
    const BpeVocabulary expected = textbook_trainer(words, options.vocab);
    EXPECT_EQ(learned.merges, expected.merges) << text;
    EXPECT_EQ(learned.tokens, expected.tokens) << text;
  }
}

TEST(BpeTrainer, TakesTheSmallerIdsAmongEquals) {
  const std::vector<std::string_view> texts = {"xb xb xb cd cd cd aa aa aa"};
  BpeTrainingOptions options;
  options.vocab = 300;
  const BpeVocabulary learned = train_bpe(count_words(texts, SplitPattern::kGpt2, 1), options);
  ASSERT_GE(learned.merges.size(), 3U);
  EXPECT_THAT(learned.merges[0], ::testing::Pair("a", "a"));
  EXPECT_LT(learned.tokens.size(), 300U);  // no pair was left
}

TEST(BpeTrainer, CountsTheSameOnAnyNumberOfThreads) {
  std::mt19937 rng(6);
  const std::string text = random_text(rng, 12 << 20, "abc de\n");
  const std::vector<std::string_view> texts = {text, "one more"};
  const WordCounts one = count_words(texts, SplitPattern::kGpt4, 1);
  EXPECT_EQ(count_words(texts, SplitPattern::kGpt4, 3), one);
}

json read_recorded() {
  std::ifstream in(lockstep::testing::recorded_file("tokenizers.json"));
  return json::parse(in);
}

TEST(BpeTokenizer, HasTheIdsOfTokenizers) {
  for (const json& recorded : read_recorded()) {
    const BpeTokenizer tokenizer(recorded["tokenizer_json"], "<|endoftext|>", "recorded");
    for (std::size_t i = 0; i < recorded["texts"].size(); ++i) {
      Ids ids = tokenizer.beginning();
      for (const std::int32_t id :
           tokenizer.encode_special(recorded["texts"][i].get<std::string>()))
        ids.push_back(id);
      for (const std::int32_t id : tokenizer.ending())
        ids.push_back(id);
      EXPECT_EQ(ids, recorded["ids"][i].get<Ids>())
          << recorded["name"] << " text " << i << ": " << recorded["texts"][i];
    }
  }
}

std::string recorded_json(const std::string& name) {
  for (const json& recorded : read_recorded())
    if (recorded["name"] == name) return recorded["tokenizer_json"];
  ADD_FAILURE() << name;
  return "";
}

TEST(BpeTokenizer, EncodesLongPiecesLikeShortOnesAndDecodesEveryByte) {
  const BpeTokenizer tokenizer(recorded_json("o200k"), "", "recorded");
  std::mt19937 rng(7);
  std::string bytes;
  for (int i = 0; i < 5000; ++i)
    bytes.push_back(static_cast<char>(rng() % 256));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(bytes)), bytes);
  // A word without a break, by the heap, against one merge after the other over the whole word.
  const json model = json::parse(recorded_json("o200k"))["model"];
  std::vector<std::string> word;
  const std::string text = random_text(rng, 700, "quickbrownfox");
  for (const char c : text)
    word.emplace_back(1, c);
  for (const json& merge : model["merges"]) {
    std::vector<std::string> next;
    for (std::size_t i = 0; i < word.size(); ++i) {
      const bool both = i + 1 < word.size() && word[i] == merge[0] && word[i + 1] == merge[1];
      next.push_back(both ? word[i] + word[i + 1] : word[i]);
      if (both) ++i;
    }
    word = next;
  }
  std::vector<std::string> found;
  for (const std::int32_t id : tokenizer.encode(text))
    found.push_back(tokenizer.decode({&id, 1}));
  EXPECT_EQ(found, word);
}

TEST(BpeTokenizer, LetsNoTextForgeASpecialToken) {
  const BpeTokenizer tokenizer(recorded_json("qwen2"), "<|endoftext|>", "recorded");
  const std::int32_t end = *tokenizer.end_of_text();
  EXPECT_TRUE(tokenizer.special(end));
  EXPECT_THAT(tokenizer.encode_special("a<|endoftext|>"), ::testing::Contains(end));
  EXPECT_THAT(tokenizer.encode("a<|endoftext|>"), ::testing::Not(::testing::Contains(end)));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a<|endoftext|>")), "a<|endoftext|>");
}

TEST(BpeTokenizer, TravelsInItsDescriptionAndInFiles) {
  const BpeTokenizer tokenizer(recorded_json("gpt2"), "<|endoftext|>", "recorded");
  const auto again = tokenizer_from_description(tokenizer.description(), "meta.json");
  EXPECT_EQ(again->description(), tokenizer.description());
  const testing::TemporaryDirectory directory;
  write_tokenizer_files(tokenizer, directory.path());
  const auto read = make_tokenizer("bpe:" + directory.path().string());
  EXPECT_EQ(read->encode("the quick it's"), tokenizer.encode("the quick it's"));
  EXPECT_EQ(read->end_of_text(), tokenizer.end_of_text());
}

TEST(BpeTokenizer, ReadsVocabularyAndMergesOfGpt2) {
  const json whole = json::parse(recorded_json("gpt2"));
  const testing::TemporaryDirectory directory;
  std::ofstream(directory.path() / "vocab.json") << whole["model"]["vocab"].dump();
  std::ofstream merges(directory.path() / "merges.txt");
  merges << "#version: 0.2\n";
  for (const json& merge : whole["model"]["merges"])
    merges << merge[0].get<std::string>() << " " << merge[1].get<std::string>() << "\n";
  merges.close();
  const auto tokenizer = make_tokenizer("bpe:" + directory.path().string());
  const BpeTokenizer expected(recorded_json("gpt2"), "<|endoftext|>", "recorded");
  EXPECT_EQ(tokenizer->encode(" quick brown"), expected.encode(" quick brown"));
  EXPECT_EQ(tokenizer->end_of_text(), expected.end_of_text());
}

TEST(BpeTokenizer, NamesWhatItDoesNotHave) {
  const auto refusal = [](const std::string& pointer, const json& value) {
    json object = json::parse(recorded_json("gpt4"));
    object[json::json_pointer(pointer)] = value;
    try {
      const BpeTokenizer tokenizer(object.dump(), "", "t.json");
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData);
      return std::string(error.what());
    }
    return "accepted " + pointer;
  };
  EXPECT_THAT(refusal("/model/type", "WordPiece"), HasSubstr("t.json: model.type: expected BPE"));
  EXPECT_THAT(refusal("/model/dropout", 0.1), HasSubstr("model.dropout"));
  EXPECT_THAT(refusal("/model/end_of_word_suffix", "</w>"), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(refusal("/normalizer", {{"type", "NFKC"}}), HasSubstr("normalizer: expected null"));
  EXPECT_THAT(refusal("/pre_tokenizer", {{"type", "Metaspace"}}), HasSubstr("pre_tokenizer"));
  EXPECT_THAT(refusal("/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\p{N}{1,3}+"),
              HasSubstr("pretokenizers[0].pattern.Regex"));
  EXPECT_THAT(refusal("/decoder", {{"type", "Fuse"}}), HasSubstr("decoder: expected ByteLevel"));
  EXPECT_THAT(refusal("/truncation", {{"max_length", 5}}), HasSubstr("truncation: expected null"));
  EXPECT_THAT(refusal("/added_tokens/0/single_word", true), HasSubstr("added_tokens[0]"));
  EXPECT_THAT(refusal("/model/merges/0", {"qq", "z"}), HasSubstr("merge 0"));
  EXPECT_THAT(refusal("/model/vocab/!", 70000000), HasSubstr("token id"));
  json object = json::parse(recorded_json("gpt4"));
  object["model"]["vocab"].erase("!");
  EXPECT_THROW(BpeTokenizer(object.dump(), "", "t.json"), core::Error);
}

}  // namespace
}  // namespace lockstep::runtime
