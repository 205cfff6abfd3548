#include "runtime/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "core/error.h"
#include "core/hash.h"
#include "runtime/checkpoint/safetensors_writer.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using core::DType;
using lockstep::testing::read_file;
using lockstep::testing::TemporaryDirectory;
using ::testing::HasSubstr;

std::string with_length(std::uint64_t length, const std::string& rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + rest;
}

std::string file_of(const std::string& header, const std::string& data = "") {
  return with_length(header.size(), header + data);
}

template <typename F>
std::string data_error(F&& f) {
  try {
    f();
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kData) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "expected a data error, found none";
  return "";
}

std::vector<float> values_of(const SafetensorsFile& file, const std::string& name) {
  const StoredTensor* tensor = file.find(name);
  std::vector<float> values(tensor->elements);
  file.read(*tensor, values);
  return values;
}

TEST(Safetensors, RoundTripsTensorsMetadataAndHash) {
  const TemporaryDirectory dir;
  std::vector<float> big(10001);
  std::iota(big.begin(), big.end(), -5.0F);
  const std::vector<double> wide = {1.5, -2.0};
  const float scalar = 7.0F;
  SafetensorsWriter writer(dir / "a.safetensors",
                           {{"wide", DType::kF64, {2}},
                            {"big \"quoted\"", DType::kF32, {73, 137}},
                            {"none", DType::kF32, {0, 4}},
                            {"scalar", DType::kF32, {}}},
                           {{"format", "pt"}, {"k", "v"}});
  writer.write("wide", std::as_bytes(std::span(wide)));
  writer.write("big \"quoted\"", std::span<const float>(big).first(4000));
  writer.write("big \"quoted\"", std::span<const float>(big).subspan(4000));
  writer.write("scalar", std::span(&scalar, 1));
  const WrittenFile written = writer.finish(Durability::kSynced);

  const std::string bytes = read_file(dir / "a.safetensors");
  EXPECT_EQ(written.bytes, bytes.size());
  EXPECT_EQ(written.hash, core::hash64(bytes));
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  EXPECT_EQ(header % 8, 0U);

  const SafetensorsFile file(dir / "a.safetensors");
  EXPECT_EQ(file.tensors().size(), 4U);
  EXPECT_EQ(values_of(file, "wide"), (std::vector<float>{1.5F, -2.0F}));
  EXPECT_EQ(values_of(file, "big \"quoted\""), big);
  EXPECT_EQ(values_of(file, "scalar"), std::vector<float>{7.0F});
  EXPECT_EQ(file.find("none")->shape, (std::vector<std::int64_t>{0, 4}));
  EXPECT_EQ(file.find("missing"), nullptr);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  std::vector<float> middle(3);
  file.read(*file.find("big \"quoted\""), 9000, middle);
  EXPECT_EQ(middle, (std::vector<float>{8995, 8996, 8997}));
}

TEST(Safetensors, ReadsUnalignedHalfTypes) {
  const TemporaryDirectory dir;
  std::string header = R"({"z":{"dtype":"F16","shape":[2],"data_offsets":[1,5]},)"
                       R"("a":{"dtype":"BF16","shape":[1,2],"data_offsets":[5,9]},)"
                       R"("m":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})";
  header += header.size() % 2 == 0 ? "" : " ";
  const std::string data("\x01\x00\x3C\x00\xC0\x80\x3F\x00\xC0", 9);
  const SafetensorsFile file(dir.write("h.safetensors", file_of(header, data)));
  EXPECT_EQ(values_of(file, "z"), (std::vector<float>{1.0F, -2.0F}));
  EXPECT_EQ(values_of(file, "a"), (std::vector<float>{1.0F, -2.0F}));
  EXPECT_EQ(file.tensors().front().name, "m");
  EXPECT_FALSE(file.find("m")->dtype.has_value());
  std::vector<float> one(1);
  EXPECT_THAT(data_error([&] { file.read(*file.find("m"), one); }),
              HasSubstr("tensor \"m\": expected F64, F32, F16 or BF16 values, found BOOL"));
}

TEST(Safetensors, WritesTheSameBytesTwice) {
  const TemporaryDirectory dir;
  const std::vector<float> values = {1, 2, 3};
  for (const char* name : {"a", "b"}) {
    SafetensorsWriter writer(dir / name, {{"t", DType::kF32, {3}}}, {{"x", "1"}, {"a", "2"}});
    writer.write("t", std::span(values));
    writer.finish(Durability::kCached);
  }
  EXPECT_EQ(read_file(dir / "a"), read_file(dir / "b"));
}

TEST(Safetensors, WriterChecksOrderAndCompleteness) {
  const TemporaryDirectory dir;
  const std::vector<float> values = {1, 2, 3};
  const std::vector<TensorToWrite> list = {{"a", DType::kF32, {3}}, {"b", DType::kF32, {3}}};
  const auto span = std::span<const float>(values);
  {
    SafetensorsWriter writer(dir / "t", list);
    EXPECT_THROW(writer.write("b", span), core::Error);
    writer.write("a", span.first(2));
    EXPECT_THROW(writer.write("b", span), core::Error);
    EXPECT_THROW(writer.write("a", span), core::Error);
    writer.write("a", span.first(1));
    EXPECT_THROW(writer.finish(Durability::kCached), core::Error);
  }
  EXPECT_THROW(SafetensorsWriter(dir / "t", {list[0], list[0]}), core::Error);
  EXPECT_THAT(data_error([&] { SafetensorsWriter(dir / "no/such/folder", list); }),
              HasSubstr("No such file"));
}

TEST(Safetensors, ReportsAFullDisk) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  EXPECT_THAT(data_error([] {
                SafetensorsWriter("/dev/full", {{"a", DType::kF32, {3}}});
              }),
              HasSubstr("No space left"));
}

TEST(Safetensors, RefusesEveryTruncation) {
  const TemporaryDirectory dir;
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  SafetensorsWriter writer(dir / "whole", {{"a", DType::kF32, {2, 2}}, {"b", DType::kF32, {2}}});
  writer.write("a", std::span<const float>(values).first(4));
  writer.write("b", std::span<const float>(values).last(2));
  writer.finish(Durability::kCached);
  const std::string whole = read_file(dir / "whole");
  EXPECT_EQ(SafetensorsFile(dir / "whole").tensors().size(), 2U);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto path = dir.write("cut", std::string_view(whole).substr(0, size));
    EXPECT_THAT(data_error([&] { SafetensorsFile{path}; }), HasSubstr("cut")) << size;
  }
  EXPECT_THAT(data_error([&] { SafetensorsFile{dir.write("long", whole + "x")}; }),
              HasSubstr("expected 24 bytes of data"));
}

// Single bytes changed at random: never a crash, and never a tensor outside the file.
TEST(Safetensors, SurvivesAlteredHeaders) {
  const TemporaryDirectory dir;
  const std::string whole =
      file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"k":"v"}})",
              std::string(8, 'x'));
  int accepted = 0;
  for (std::size_t place = 0; place + 8 < whole.size(); ++place) {
    for (const char c : {'\0', '"', '{', '}', '[', ']', ',', '9', '-', '\xFF', 'e'}) {
      std::string altered = whole;
      altered[place] = c;
      try {
        const SafetensorsFile file(dir.write("altered", altered));
        for (const StoredTensor& t : file.tensors())
          EXPECT_LE(t.bytes, altered.size());
        ++accepted;
      } catch (const core::Error& error) {
        EXPECT_EQ(error.kind(), core::ErrorKind::kData);
      }
    }
  }
  EXPECT_LT(accepted, 200);  // other names and other metadata are legal
}

TEST(Safetensors, RefusesBadHeadersSayingWhatIsWrong) {
  const std::string good = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const std::string data(8, 'x');
  const auto tensor = [](const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
    return R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}}";
  };
  struct Case {
    std::string bytes;
    const char* expected;
  };
  const std::vector<Case> table = {
      {"", "0 bytes"},
      {"1234567", "7 bytes"},
      {with_length(100, "{}"), "truncated"},
      {with_length(UINT64_MAX, "{}"), "at most 100000000"},
      {with_length(100'000'001, "{}"), "at most 100000000"},
      {file_of(""), "starting with '{'"},
      {file_of(" {}"), "starting with '{'"},
      {file_of("[]"), "starting with '{'"},
      {file_of("{"), "expected JSON"},
      {file_of("{}}"), "expected JSON"},
      {file_of("{" + good + ",}", data), "expected JSON"},
      {file_of("{\"\xFF\":1}"), "expected JSON"},
      {file_of("{" + good + "," + good + "}", data), "\"a\" twice"},
      {file_of(R"({"__metadata__":{"k":"1","k":"2"}})"), "\"k\" twice"},
      {file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", data),
       "\"dtype\" twice"},
      {file_of(R"({"a":{"b":{"c":{"d":{}}}}})"), "nests deeper"},
      {file_of("{\"a\":" + std::string(100000, '[')), "nests deeper"},
      {file_of(R"({"__metadata__":[]})"), "__metadata__: expected an object"},
      {file_of(R"({"__metadata__":{"k":1}})"), "expected text for \"k\""},
      {file_of(R"({"a":7})"), "tensor \"a\": expected an object"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2]}})", data), "\"data_offsets\", found none"},
      {file_of(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", data), "\"dtype\", found none"},
      {file_of(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", data), "\"shape\", found none"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", data), "\"x\""},
      {file_of(tensor("\"F33\"", "[2]", "[0,8]"), data), "found \"F33\""},
      {file_of(tensor("7", "[2]", "[0,8]"), data), "dtype: expected"},
      {file_of(tensor("\"F32\"", "2", "[0,8]"), data), "shape: expected"},
      {file_of(tensor("\"F32\"", "[-2]", "[0,8]"), data), "shape: expected"},
      {file_of(tensor("\"F32\"", "[2.0]", "[0,8]"), data), "shape: expected"},
      {file_of(tensor("\"F32\"", "[\"2\"]", "[0,8]"), data), "shape: expected"},
      {file_of(tensor("\"F32\"", "[4294967296,4294967296,2]", "[0,8]"), data), "too large"},
      {file_of(tensor("\"F64\"", "[4611686018427387903]", "[0,8]"), data), "too large"},
      {file_of(tensor("\"F32\"", "[9223372036854775808]", "[0,8]"), data), "shape: expected"},
      {file_of(tensor("\"F32\"", "[3]", "[0,8]"), data), "expected 12 bytes"},
      {file_of(tensor("\"F64\"", "[2]", "[0,8]"), data), "expected 16 bytes"},
      {file_of(tensor("\"F32\"", "[2]", "[8,0]"), data), "expected [begin, end]"},
      {file_of(tensor("\"F32\"", "[2]", "[0]"), data), "expected [begin, end]"},
      {file_of(tensor("\"F32\"", "[2]", "[0,8,8]"), data), "expected [begin, end]"},
      {file_of(tensor("\"F32\"", "[2]", "[-8,0]"), data), "data_offsets: expected"},
      {file_of(tensor("\"F32\"", "[2]", "[0,8.0]"), data), "data_offsets: expected"},
      {file_of(tensor("\"F32\"", "[2]", "[0,18446744073709551616]"), data), "data_offsets"},
      {file_of(tensor("\"F32\"", "[4]", "[0,16]"), data), "truncated"},
      {file_of(tensor("\"F32\"", "[1]", "[4,8]"), data), "leave a hole"},
      {file_of(tensor("\"F32\"", "[1]", "[0,4]"), data), "expected 4 bytes of data"},
      {file_of("{" + good + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", data),
       "overlap"},
      {file_of("{}", data), "expected 0 bytes of data"},
  };
  const TemporaryDirectory dir;
  for (std::size_t i = 0; i < table.size(); ++i) {
    const auto path = dir.write("bad.safetensors", table[i].bytes);
    const std::string message = data_error([&] { SafetensorsFile{path}; });
    EXPECT_THAT(message, HasSubstr(table[i].expected)) << "case " << i;
    EXPECT_THAT(message, HasSubstr("bad.safetensors"));
  }
  EXPECT_TRUE(SafetensorsFile(dir.write("empty", file_of("{}"))).tensors().empty());
  EXPECT_THAT(data_error([&] { SafetensorsFile{dir / "missing"}; }), HasSubstr("No such file"));
}

// D3: cut short while it is read, it is an error that names it.
TEST(Safetensors, NamesAFileThatIsCutShort) {
  const TemporaryDirectory dir;
  const std::vector<float> values(100000, 1.0F);
  SafetensorsWriter writer(dir / "cut.safetensors", {{"w", DType::kF32, {100000}}});
  writer.write("w", values);
  writer.finish(Durability::kCached);
  const SafetensorsFile file(dir / "cut.safetensors");
  EXPECT_EQ(values_of(file, "w"), values);
  std::filesystem::resize_file(dir / "cut.safetensors", 1000);
  EXPECT_THAT(
      data_error([&] { values_of(file, "w"); }),
      ::testing::AllOf(HasSubstr("cut.safetensors: expected 4000"), HasSubstr("cut short")));
}

}  // namespace
}  // namespace lockstep::runtime
