#include "runtime/data/prepare.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/hash.h"
#include "runtime/data/corpus.h"
#include "runtime/data/token_file.h"
#include "runtime/data/tokenizer/tokenizer_files.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

namespace fs = std::filesystem;
using core::ErrorKind;
using lockstep::testing::read_file;
using lockstep::testing::TemporaryDirectory;
using ::testing::HasSubstr;

std::string text_of(const fs::path& directory, DataSplit split) {
  const TokenFile file(directory, core::DType::kU16, split);
  std::vector<std::int32_t> ids(file.tokens());
  file.read(0, ids);
  std::string text;
  for (const std::int32_t id : ids)
    text.push_back(static_cast<char>(id));
  return text;
}

template <typename F>
std::string error_of(ErrorKind kind, F&& f) {
  try {
    f();
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "expected an error, found none";
  return "";
}

std::vector<std::string> entries(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i)
    text += "line " + std::to_string(i) + "\n";
  return text;
}

TEST(Prepare, SplitsAtTheLineNearestToTheFraction) {
  const TemporaryDirectory dir;
  const std::string text = lines(1000);
  const auto input = dir.write("in.txt", text);
  for (const double fraction : {0.1, 0.5, 0.9, 0.0001, 0.9999}) {
    const fs::path output = dir / ("out" + std::to_string(fraction));
    const PrepareResult result =
        prepare_data({.inputs = {input}, .output = output, .validation_fraction = fraction});
    const std::string train = text_of(output, DataSplit::kTrain);
    const std::string validation = text_of(output, DataSplit::kValidation);
    EXPECT_EQ(train + validation, text);
    EXPECT_TRUE(train.ends_with('\n') && validation.starts_with("line "));
    const double wanted = static_cast<double>(text.size()) * (1.0 - fraction);
    EXPECT_NEAR(static_cast<double>(train.size()), wanted, 10.0);
    EXPECT_EQ(result.meta.train_tokens, train.size());
    EXPECT_EQ(result.meta.validation_tokens, validation.size());
  }
}

TEST(Prepare, WritesWhatItRead) {
  const TemporaryDirectory dir;
  dir.write("texts/b.txt", "two\n");
  dir.write("texts/a.txt", "one");
  dir.write("texts/sub/c.txt", "three\n");
  dir.write("texts/.hidden", "no");
  dir.write("texts/.git/config", "no");
  dir.write("texts/empty.txt", "");
  const auto last = dir.write("last.bin", std::string("\xFF\x00\xFEx", 4));
  const PrepareResult result = prepare_data(
      {.inputs = {dir / "texts", last}, .output = dir / "out", .validation_fraction = 0});
  EXPECT_EQ(text_of(dir / "out", DataSplit::kTrain),
            std::string("one\ntwo\nthree\n\xFF\x00\xFEx", 18));
  EXPECT_EQ(entries(dir / "out"), (std::vector<std::string>{"meta.json", "train.bin"}));
  const PreparedMeta meta = read_prepared_meta(dir / "out");
  EXPECT_EQ(meta.vocab, 256);
  EXPECT_EQ(meta.tokenizer, R"({"type":"bytes"})");
  EXPECT_EQ(meta.token_type, core::DType::kU16);
  ASSERT_EQ(meta.sources.size(), 5U);
  EXPECT_EQ(meta.sources[0].name, "a.txt");
  EXPECT_EQ(meta.sources[0].hash, core::hash64("one"));
  EXPECT_EQ(meta.sources[3].name, "sub/c.txt");
  EXPECT_EQ(meta.sources[4].bytes, 4U);
}

TEST(Prepare, IsIdempotentAndRefusesToReplaceWithoutForce) {
  const TemporaryDirectory dir;
  const auto input = dir.write("in.txt", lines(50));
  PrepareOptions options{.inputs = {input}, .output = dir / "deep/out"};
  EXPECT_FALSE(prepare_data(options).unchanged);
  const std::string meta = read_file(dir / "deep/out/meta.json");
  const auto written = fs::last_write_time(dir / "deep/out/train.bin");
  EXPECT_TRUE(prepare_data(options).unchanged);
  EXPECT_EQ(fs::last_write_time(dir / "deep/out/train.bin"), written);

  dir.write("in.txt", lines(60));
  EXPECT_THAT(error_of(ErrorKind::kConfig, [&] { prepare_data(options); }), HasSubstr("--force"));
  EXPECT_EQ(read_file(dir / "deep/out/meta.json"), meta);
  options.overwrite = Overwrite::kReplace;
  options.validation_fraction = 0;
  EXPECT_FALSE(prepare_data(options).unchanged);
  EXPECT_EQ(text_of(dir / "deep/out", DataSplit::kTrain), lines(60));
  EXPECT_EQ(entries(dir / "deep/out"), (std::vector<std::string>{"meta.json", "train.bin"}));
  EXPECT_EQ(entries(dir / "deep"), std::vector<std::string>{"out"});  // nothing left behind

  dir.write("deep/out/notes.txt", "mine");
  dir.write("in.txt", lines(70));
  EXPECT_THAT(error_of(ErrorKind::kConfig, [&] { prepare_data(options); }), HasSubstr("notes.txt"));
  EXPECT_EQ(read_file(dir / "deep/out/notes.txt"), "mine");
  EXPECT_EQ(entries(dir / "deep"), std::vector<std::string>{"out"});
}

TEST(Prepare, RepairsATruncatedOutputOnlyWithForce) {
  const TemporaryDirectory dir;
  const auto input = dir.write("in.txt", lines(50));
  PrepareOptions options{.inputs = {input}, .output = (dir / "out").string() + "/"};
  prepare_data(options);
  fs::resize_file(dir / "out/train.bin", 10);
  error_of(ErrorKind::kConfig, [&] { prepare_data(options); });
  options.overwrite = Overwrite::kReplace;
  prepare_data(options);
  EXPECT_EQ(text_of(dir / "out", DataSplit::kTrain) + text_of(dir / "out", DataSplit::kValidation),
            lines(50));
}

TEST(Prepare, FillsAnEmptyDirectory) {
  const TemporaryDirectory dir;
  const auto input = dir.write("in.txt", lines(5));
  fs::create_directory(dir / "out");
  prepare_data({.inputs = {input}, .output = dir / "out"});
  EXPECT_TRUE(fs::exists(dir / "out/meta.json"));
}

TEST(Prepare, RefusesBadOptionsAndInputs) {
  const TemporaryDirectory dir;
  const auto good = dir.write("texts/in.txt", lines(5));
  const auto empty = dir.write("empty.txt", "");
  const auto line = dir.write("line.txt", "a single line\n");
  fs::create_directory(dir / "nothing");
  const auto refuse = [&](ErrorKind kind, const PrepareOptions& options) {
    const std::string message = error_of(kind, [&] { prepare_data(options); });
    EXPECT_FALSE(fs::exists(dir / "out"));
    return message;
  };
  const fs::path out = dir / "out";
  for (const double fraction : {-0.1, 1.0, 2.0, std::nan("")})
    EXPECT_THAT(refuse(ErrorKind::kConfig,
                       {.inputs = {good}, .output = out, .validation_fraction = fraction}),
                HasSubstr("[0, 1)"));
  EXPECT_THAT(
      refuse(ErrorKind::kConfig, {.inputs = {good}, .output = out, .tokenizer = "sentencepiece:x"}),
      HasSubstr("not been built"));
  EXPECT_THAT(refuse(ErrorKind::kConfig, {.inputs = {}, .output = out}), HasSubstr("--input"));
  EXPECT_THAT(refuse(ErrorKind::kConfig, {.inputs = {good}, .output = good}),
              HasSubstr("found a file"));
  EXPECT_THAT(
      refuse(ErrorKind::kConfig, {.inputs = {dir / "texts"}, .output = dir / "texts/prepared"}),
      HasSubstr("inside"));
  EXPECT_THAT(refuse(ErrorKind::kData, {.inputs = {dir / "missing"}, .output = out}),
              HasSubstr("No such file"));
  EXPECT_THAT(refuse(ErrorKind::kData, {.inputs = {empty}, .output = out}),
              HasSubstr("empty files"));
  EXPECT_THAT(refuse(ErrorKind::kData, {.inputs = {dir / "nothing"}, .output = out}),
              HasSubstr("found none"));
  EXPECT_THAT(refuse(ErrorKind::kData, {.inputs = {line}, .output = out}),
              HasSubstr("--validation-fraction 0"));
  EXPECT_THAT(refuse(ErrorKind::kData, {.inputs = {good, dir / "texts"}, .output = out}),
              HasSubstr("twice"));
}

std::string decoded(const fs::path& directory, DataSplit split) {
  const TokenFile file(directory, core::DType::kU16, split);
  std::vector<std::int32_t> ids(file.tokens());
  file.read(0, ids);
  return tokenizer_from_description(file.tokenizer(), "meta.json")->decode(ids);
}

TEST(Prepare, SplitsDocumentsByTheirHash) {
  const TemporaryDirectory dir;
  std::string json_lines;
  for (int i = 0; i < 400; ++i)
    json_lines += fmt::format("{{\"body\":\"document \\u00e9 {}\"}}\n", i % 200);
  const fs::path input = dir.write("a.jsonl", json_lines);
  const fs::path more = dir.write("b.txt", "a file\nof two lines");
  prepare_data({.inputs = {input, more},
                .output = dir / "out",
                .validation_fraction = 0.25,
                .text_field = "body"});
  const std::string train = decoded(dir / "out", DataSplit::kTrain);
  const std::string validation = decoded(dir / "out", DataSplit::kValidation);
  int validated = 0;
  for (int i = 0; i < 200; ++i) {
    const std::string document = fmt::format("document \u00e9 {}\n", i);
    const bool trains = train.find(document) != train.npos;
    EXPECT_NE(trains, validation.find(document) != validation.npos) << i;
    validated += trains ? 0 : 1;
  }
  EXPECT_TRUE(25 < validated && validated < 75) << validated;
  EXPECT_NE((train + validation).find("a file\nof two lines\n"), train.npos);
  EXPECT_THAT(error_of(ErrorKind::kData,
                       [&] { prepare_data({.inputs = {input}, .output = dir / "other"}); }),
              HasSubstr("a.jsonl:1: \"text\": expected a string, found none"));
  const fs::path one = dir.write("one.jsonl", "{\"text\":\"x\"}\n");
  EXPECT_THAT(
      error_of(ErrorKind::kData, [&] { prepare_data({.inputs = {one}, .output = dir / "other"}); }),
      HasSubstr("none to"));
}

TEST(Prepare, EndsDocumentsAndEncodesLongTextsAsWholes) {
  const TemporaryDirectory dir;
  std::string text;
  for (int i = 0; text.size() < (5 << 20); ++i)
    text += fmt::format("the word {}  \n\n  and\tanother;\n", i);
  const fs::path input = dir.write("long.txt", text);
  TrainTokenizerOptions options;
  options.inputs = {input};
  options.output = dir / "tokenizer";
  options.training.vocab = 400;
  options.pattern = SplitPattern::kGpt2;
  train_tokenizer(options);
  const std::string choice = "bpe:" + (dir / "tokenizer").string();
  prepare_data({.inputs = {input},
                .output = dir / "whole",
                .tokenizer = choice,
                .validation_fraction = 0.0});
  const TokenFile whole(dir / "whole", core::DType::kU16, DataSplit::kTrain);
  std::vector<std::int32_t> ids(whole.tokens());
  whole.read(0, ids);
  const auto tokenizer = make_tokenizer(choice);
  EXPECT_EQ(ids, tokenizer->encode(text));
  const fs::path documents = dir.write("d.jsonl", R"({"text":"a<|endoftext|>b"})");
  prepare_data({.inputs = {documents},
                .output = dir / "documents",
                .tokenizer = choice,
                .validation_fraction = 0.0});
  EXPECT_EQ(decoded(dir / "documents", DataSplit::kTrain), "a<|endoftext|>b<|endoftext|>");
  const TokenFile file(dir / "documents", core::DType::kU16, DataSplit::kTrain);
  std::vector<std::int32_t> few(file.tokens());
  file.read(0, few);
  EXPECT_EQ(std::count(few.begin(), few.end(), *tokenizer->end_of_text()), 1);
}

TEST(Corpus, FindsTheNearestLineBoundary) {
  const TemporaryDirectory dir;
  // A newline joins the two files.
  const Corpus corpus({dir.write("1", "ab\ncd\nef"), dir.write("2", "g\n")});
  ASSERT_EQ(corpus.bytes(), 11U);  // "ab\ncd\nef\ng\n"
  const std::vector<std::uint64_t> expected = {3, 3, 3, 3, 3, 6, 6, 6, 9, 9, 9, 9};
  for (std::uint64_t target = 0; target <= 11; ++target)
    EXPECT_EQ(corpus.nearest_line_boundary(target), expected[target]) << target;
}

TEST(Corpus, VisitsTheTextInPieces) {
  const TemporaryDirectory dir;
  std::string text = lines(400000);
  text += std::string(3 << 20, 'x');
  const Corpus corpus({dir.write("big", text)});
  std::string seen;
  std::size_t largest = 0;
  corpus.visit(5, text.size() - 7, [&](std::string_view piece) {
    seen += piece;
    largest = std::max(largest, piece.size());
  });
  EXPECT_EQ(seen, text.substr(5, text.size() - 12));
  EXPECT_LE(largest, std::size_t{2 << 20});
}

}  // namespace
}  // namespace lockstep::runtime
