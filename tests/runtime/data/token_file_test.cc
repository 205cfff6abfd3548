#include "runtime/data/token_file.h"

#include <gtest/gtest.h>

#include <numeric>

#include "runtime/data/prepared_meta.h"
#include "runtime/data/sources.h"
#include "tests/runtime/data/token_bytes.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using core::DType;
using lockstep::testing::bytes_of;
using lockstep::testing::data_error;
using lockstep::testing::llmc_header;
using lockstep::testing::TemporaryDirectory;
using ::testing::HasSubstr;

std::vector<std::int32_t> all_tokens(const TokenFile& file) {
  std::vector<std::int32_t> tokens(file.tokens());
  file.read(0, tokens);
  return tokens;
}

std::string meta_json(std::uint64_t train, std::uint64_t validation) {
  return to_json({.tokenizer = R"({"type":"bytes"})",
                  .vocab = 256,
                  .token_type = DType::kU16,
                  .train_tokens = train,
                  .validation_tokens = validation,
                  .sources = {{"a.txt", 10, 0x1234}}});
}

TEST(TokenFile, ReadsRawUint16AndUint32) {
  const TemporaryDirectory dir;
  const auto narrow = dir.write("narrow.bin", bytes_of<std::uint16_t>({5, 65535, 7}));
  const auto wide = dir.write("wide.bin", bytes_of<std::uint32_t>({5, 128255, 0xFFFFFFFFU}));
  const TokenFile narrow_file(narrow, DType::kU16, DataSplit::kTrain);
  EXPECT_EQ(narrow_file.format(), TokenFormat::kRaw);
  EXPECT_EQ(all_tokens(narrow_file), (std::vector<std::int32_t>{5, 65535, 7}));
  const TokenFile wide_file(wide, DType::kU32, DataSplit::kValidation);
  EXPECT_EQ(all_tokens(wide_file), (std::vector<std::int32_t>{5, 128255, -1}));
  EXPECT_EQ(wide_file.id_range().smallest, 5U);
  EXPECT_EQ(wide_file.id_range().largest, 0xFFFFFFFFU);
}

TEST(TokenFile, ReadsLlmcFilesWhateverTheTokenType) {
  const TemporaryDirectory dir;
  const auto narrow =
      dir.write("n.bin", llmc_header(20240520, 1, 3) + bytes_of<std::uint16_t>({1, 2, 3}));
  const auto wide =
      dir.write("w.bin", llmc_header(20240801, 1, 2) + bytes_of<std::uint32_t>({100000, 2}));
  const TokenFile narrow_file(narrow, DType::kU32, DataSplit::kTrain);
  EXPECT_EQ(narrow_file.format(), TokenFormat::kLlmc);
  EXPECT_EQ(narrow_file.token_type(), DType::kU16);
  EXPECT_EQ(all_tokens(narrow_file), (std::vector<std::int32_t>{1, 2, 3}));
  const TokenFile wide_file(wide, DType::kU16, DataSplit::kTrain);
  EXPECT_EQ(all_tokens(wide_file), (std::vector<std::int32_t>{100000, 2}));
}

TEST(TokenFile, ReadsBothSplitsOfAPreparedDirectory) {
  const TemporaryDirectory dir;
  dir.write("d/meta.json", meta_json(3, 2));
  dir.write("d/train.bin", bytes_of<std::uint16_t>({1, 2, 3}));
  dir.write("d/validation.bin", bytes_of<std::uint16_t>({8, 9}));
  const TokenFile train(dir / "d", DType::kU32, DataSplit::kTrain);
  const TokenFile validation(dir / "d/", DType::kU32, DataSplit::kValidation);
  EXPECT_EQ(train.format(), TokenFormat::kPrepared);
  EXPECT_EQ(all_tokens(train), (std::vector<std::int32_t>{1, 2, 3}));
  EXPECT_EQ(all_tokens(validation), (std::vector<std::int32_t>{8, 9}));
  EXPECT_EQ(train.tokenizer(), R"({"type":"bytes"})");
  EXPECT_EQ(train.tokenizer_vocab(), 256);
  EXPECT_EQ(train.fingerprint().name, "d/train.bin");
  EXPECT_EQ(validation.fingerprint().name, "d/validation.bin");
}

TEST(TokenFile, RefusesEveryTruncationOfAnLlmcFile) {
  const TemporaryDirectory dir;
  const std::string whole =
      llmc_header(20240520, 1, 40) + bytes_of(std::vector<std::uint16_t>(40, 7));
  for (const std::size_t size : {4, 5, 8, 12, 100, 1023, 1024, 1025, 1026, 1060, 1102, 1103}) {
    const auto path = dir.write("cut.bin", std::string_view(whole).substr(0, size));
    const std::string message =
        data_error([&] { TokenFile(path, DType::kU16, DataSplit::kTrain); });
    EXPECT_THAT(message, HasSubstr("truncated")) << size;
    EXPECT_THAT(message, HasSubstr("cut.bin")) << size;
  }
  const auto path = dir.write("whole.bin", whole);
  EXPECT_EQ(TokenFile(path, DType::kU16, DataSplit::kTrain).tokens(), 40U);
}

struct BadFile {
  const char* name;
  std::string bytes;
  DType type;
  const char* expected;
};

TEST(TokenFile, RefusesBadFilesSayingWhatIsWrong) {
  const TemporaryDirectory dir;
  const std::vector<BadFile> table = {
      {"empty.bin", "", DType::kU16, "empty"},
      {"odd.bin", "abc", DType::kU16, "multiple of 2 bytes, found 3"},
      {"odd32.bin", "abcdef", DType::kU32, "multiple of 4 bytes, found 6"},
      {"version0.bin", llmc_header(20240520, 0, 1) + "ab", DType::kU16, "expected version 1"},
      {"version2.bin", llmc_header(20240801, 2, 1) + "abcd", DType::kU16, "found 2"},
      {"none.bin", llmc_header(20240520, 1, 0), DType::kU16, "0 tokens"},
      {"more.bin", llmc_header(20240520, 1, 2) + "ab", DType::kU16, "truncated"},
      {"negative.bin", llmc_header(20240520, 1, -1) + "ab", DType::kU16, "truncated"},
      {"fewer.bin", llmc_header(20240520, 1, 1) + "abcd", DType::kU16, "longer than its header"},
      {"weights.bin", llmc_header(20240326, 3, 1), DType::kU16, "weights of llm.c"},
      {"evaluation.bin", llmc_header(20240522, 1, 1), DType::kU16, "evaluation set"},
      {"array.npy", std::string("\x93NUMPY\x01\x00", 8), DType::kU16, "numpy"},
  };
  for (const BadFile& bad : table) {
    const auto path = dir.write(bad.name, bad.bytes);
    const std::string message = data_error([&] { TokenFile(path, bad.type, DataSplit::kTrain); });
    EXPECT_THAT(message, HasSubstr(bad.expected));
    EXPECT_THAT(message, HasSubstr(path.string()));
  }
  EXPECT_THAT(data_error([&] { TokenFile("/dev/null", DType::kU16, DataSplit::kTrain); }),
              HasSubstr("regular file"));
}

TEST(TokenFile, RefusesBadPreparedDirectories) {
  struct Case {
    std::string meta;
    std::string train;
    const char* expected;
  };
  const std::string good = meta_json(2, 0);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  const std::string two = bytes_of<std::uint16_t>({1, 2});
  const std::vector<Case> table = {
      {good, two + "xx", "expected 2 tokens"},
      {good, "ab", "expected 2 tokens"},
      {good, "abc", "multiple of 2"},
      {good, "", "empty"},
      {"", two, "expected a JSON object"},
      {"[1]", two, "expected a JSON object"},
      {good.substr(0, good.size() / 2), two, "expected a JSON object"},
      {with("\"version\": 1", "\"version\": 2"), two, "\"version\": expected 1, found 2"},
      {with("\"version\"", "\"versoin\""), two, "expected a field \"version\""},
      {with("uint16", "int8"), two, "expected uint16 or uint32"},
      {with("\"vocab\": 256", "\"vocab\": 0"), two, "\"vocab\""},
      {with("\"vocab\": 256", "\"vocab\": -1"), two, "\"vocab\""},
      {with("\"train_tokens\": 2", "\"train_tokens\": 2.5"), two, "\"train_tokens\""},
      {with("0000000000001234", "zz"), two, "zz"},
  };
  for (const Case& bad : table) {
    const TemporaryDirectory dir;
    dir.write("meta.json", bad.meta);
    dir.write("train.bin", bad.train);
    EXPECT_THAT(data_error([&] { TokenFile(dir.path(), DType::kU16, DataSplit::kTrain); }),
                HasSubstr(bad.expected))
        << bad.meta;
  }
  const TemporaryDirectory dir;
  EXPECT_THAT(data_error([&] { TokenFile(dir.path(), DType::kU16, DataSplit::kTrain); }),
              HasSubstr("found no meta.json"));
  dir.write("meta.json", good);
  EXPECT_THAT(data_error([&] { TokenFile(dir.path(), DType::kU16, DataSplit::kTrain); }),
              HasSubstr("train.bin"));
  EXPECT_THAT(data_error([&] { TokenFile(dir.path(), DType::kU16, DataSplit::kValidation); }),
              HasSubstr("--validation-fraction"));
}

TEST(TokenFile, NamesTheFirstIdBeyondTheVocabulary) {
  const TemporaryDirectory dir;
  std::vector<std::uint16_t> ids(200000, 3);
  ids[70001] = 300;
  ids[150000] = 301;
  const auto path = dir.write("t.bin", llmc_header(20240520, 1, 200000) + bytes_of(ids));
  const TokenFile file(path, DType::kU16, DataSplit::kTrain);
  EXPECT_NO_THROW(file.check_ids(0, 70001, 256));
  EXPECT_NO_THROW(file.check_ids(0, 200000, 302));
  const std::string message = data_error([&] { file.check_ids(0, 200000, 256); });
  EXPECT_THAT(message, HasSubstr("id 300 at token 70001 (byte 141026)"));
  EXPECT_THAT(message, HasSubstr("model.vocab = 256"));
  EXPECT_THAT(data_error([&] { file.check_ids(70002, 100000, 301); }), HasSubstr("id 301"));
}

TEST(TokenFile, FingerprintSeesSizeEndsAndSamples) {
  std::vector<std::uint16_t> ids(400000);
  std::iota(ids.begin(), ids.end(), std::uint16_t{0});
  const TemporaryDirectory dir;
  const auto hash = [&] {
    return sampled_hash(core::InputFile(dir.write("ids.bin", bytes_of(ids))));
  };
  const std::uint64_t original = hash();
  EXPECT_EQ(original, hash());
  for (const std::size_t place : {std::size_t{0}, std::size_t{30000}, ids.size() - 1}) {
    ids[place] ^= 1;
    EXPECT_NE(hash(), original) << place;
    ids[place] ^= 1;
  }
  const std::size_t sampled = (500 * (ids.size() * 2 - 64) / 1023) / 2 + 1;
  ids[sampled] ^= 1;
  EXPECT_NE(hash(), original);
  ids[sampled] ^= 1;
  EXPECT_EQ(hash(), original);
  ids.pop_back();
  EXPECT_NE(hash(), original);
  ids.resize(1);
  const std::uint64_t one = hash();
  ids.clear();
  EXPECT_NE(hash(), one);
}

// W5: every second id of a 32-bit file read as a 16-bit one is 0.
TEST(TokenFile, RefusesWideIdsReadAsNarrowOnes) {
  const TemporaryDirectory dir;
  std::vector<std::uint32_t> ids(300000);
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::uint32_t>(i * 7 % 97);
  const auto open = [&](const std::string& name, const std::string& bytes) {
    return TokenFile(dir.write(name, bytes), DType::kU16, DataSplit::kTrain).tokens();
  };
  for (const std::size_t count : {std::size_t{8}, std::size_t{1001}, ids.size()}) {
    const std::vector<std::uint32_t> first(ids.begin(), ids.begin() + static_cast<long>(count));
    const std::string message = data_error([&] { open("w.bin", bytes_of(first)); });
    EXPECT_THAT(message, HasSubstr("w.bin: expected 16-bit token ids, found every second one 0"));
    EXPECT_THAT(message, HasSubstr("data.token_type: uint32"));
  }
  dir.write("d/meta.json", meta_json(16, 0));
  dir.write("d/train.bin", bytes_of(std::vector<std::uint32_t>(ids.begin(), ids.begin() + 16)));
  EXPECT_THAT(data_error([&] { TokenFile(dir / "d", DType::kU16, DataSplit::kTrain); }),
              HasSubstr("32-bit ids, and meta.json says uint16"));
  // Zeros are ids, too; and one id is enough to tell.
  EXPECT_EQ(open("zeros.bin", bytes_of(std::vector<std::uint16_t>(400, 0))), 400U);
  std::vector<std::uint16_t> narrow(400, 0);
  narrow[0] = narrow[398] = 1;
  narrow[399] = 2;
  EXPECT_EQ(open("narrow.bin", bytes_of(narrow)), 400U);
}

TEST(Sources, KeepTheirOrderAndPatternsSortNaturally) {
  const TemporaryDirectory dir;
  for (const char* name : {"b.bin", "a.bin", "c.bin", "x/a.bin", "odd[1].bin", "s-10.bin",
                           "s-9.bin", "s-010.bin", "s-2.bin", "a.mask"})
    dir.write(name, std::string_view(name) == "a.mask" ? "a" : "ab");
  const auto names = [&](const std::vector<std::string>& sources) {
    std::vector<std::string> full;
    for (const std::string& source : sources)
      full.push_back((dir / source).string());
    std::vector<std::string> found;
    for (const auto& path : expand_sources(full))
      found.push_back(path.lexically_relative(dir.path()).string());
    return found;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(names({"?.bin"}), (Names{"a.bin", "b.bin", "c.bin"}));
  EXPECT_EQ(names({"a.*"}), Names{"a.bin"});
  EXPECT_EQ(names({"x/a.bin", "c.bin", "a.bin"}), (Names{"x/a.bin", "c.bin", "a.bin"}));
  EXPECT_EQ(names({"s-*"}), (Names{"s-2.bin", "s-9.bin", "s-010.bin", "s-10.bin"}));
  EXPECT_EQ(names({"c.bin", "s-?.bin", "b.bin"}), (Names{"c.bin", "s-2.bin", "s-9.bin", "b.bin"}));
  EXPECT_EQ(names({"odd[1].bin"}), Names{"odd[1].bin"});
  EXPECT_THAT(data_error([&] { names({"a.bin", "[ab].bin"}); }), HasSubstr("named twice"));
  EXPECT_THAT(data_error([&] { names({"*.txt"}); }), HasSubstr("no match"));
  EXPECT_THAT(data_error([&] { names({"missing.bin"}); }), HasSubstr("nothing there"));
  EXPECT_EQ(open_token_files({(dir / "?.bin").string()}, DType::kU16, DataSplit::kTrain).size(),
            3U);
}

}  // namespace
}  // namespace lockstep::runtime
