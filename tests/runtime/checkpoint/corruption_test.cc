#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "runtime/checkpoint/checkpoint.h"
#include "tests/support/tiny_checkpoint.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

// Checkpoints of steps 1 and 2 in one run; the tests harm the second.
class Corruption : public ::testing::Test {
 protected:
  void SetUp() override { tiny_.save({}, TinyCheckpoint::kBytes, 2); }

  std::string file(const std::string& name) const { return tiny_.path(2) + "/" + name; }

  // What --resume PATH says of the second; empty when it takes it.
  std::string refusal() const {
    try {
      runtime::verify_checkpoint(runtime::read_manifest(tiny_.path(2)));
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData) << error.what();
      return error.what();
    }
    return "";
  }

  // The step that --resume auto takes, and what it says in `told`.
  std::int64_t taken(std::string* told = nullptr) {
    const std::string path = (tiny_.directory / fmt::format("log-{}", logs_++)).string();
    std::int64_t step = 0;
    {
      core::Logger log(1, 2, core::LogLevel::kError);
      log.open_file(path);
      const auto found = runtime::newest_whole_checkpoint(tiny_.output(), log);
      if (found) step = found->state.step;
    }
    if (told != nullptr) *told = read_file(path);
    return step;
  }

  void expect_refused(const std::string& name) {
    EXPECT_THAT(refusal(), HasSubstr(name));
    std::string told;
    EXPECT_EQ(taken(&told), 1);
    EXPECT_THAT(told, HasSubstr("passing over " + tiny_.path(2)));
    EXPECT_THAT(told, HasSubstr(name));
  }

  TinyCheckpoint tiny_;
  int logs_ = 0;
};

class CorruptedFile : public Corruption, public ::testing::WithParamInterface<const char*> {};

TEST_P(CorruptedFile, CutAnywhereIsRefused) {
  const std::string path = file(GetParam());
  const std::string whole = read_file(path);
  ASSERT_GT(whole.size(), 16U);
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8}, std::size_t{9},
        whole.size() / 4, whole.size() / 2, whole.size() - 8, whole.size() - 1}) {
    SCOPED_TRACE(size);
    write_file(path, whole.substr(0, size));
    expect_refused(GetParam());
  }
  write_file(path, whole + " ");
  expect_refused(GetParam());
  write_file(path, whole);
  EXPECT_EQ(refusal(), "");
  EXPECT_EQ(taken(), 2);
}

TEST_P(CorruptedFile, OneFlippedBitIsRefused) {
  const std::string path = file(GetParam());
  const std::string whole = read_file(path);
  constexpr std::size_t kPlaces = 61;
  for (std::size_t i = 0; i <= kPlaces; ++i) {
    const std::size_t at = (whole.size() - 1) * i / kPlaces;
    SCOPED_TRACE(at);
    std::string altered = whole;
    altered[at] = static_cast<char>(altered[at] ^ (1 << (i % 8)));
    write_file(path, altered);
    expect_refused(GetParam());
  }
}

TEST_P(CorruptedFile, MissingIsRefused) {
  fs::remove(file(GetParam()));
  expect_refused(GetParam());
}

TEST_P(CorruptedFile, DirectoryInItsPlaceIsRefused) {
  fs::remove(file(GetParam()));
  fs::create_directory(file(GetParam()));
  expect_refused(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Files, CorruptedFile,
                         ::testing::Values("model.safetensors",
                                           "optimizer-00000-of-00001.safetensors", "config.yaml",
                                           "manifest.json"));

// In blanks and hashes too.
TEST_F(Corruption, FlippedBitInAnyByteOfTheManifestIsRefused) {
  const std::string path = file("manifest.json");
  const std::string whole = read_file(path);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string altered = whole;
    altered[at] = static_cast<char>(altered[at] ^ (1 << (at % 8)));
    write_file(path, altered);
    ASSERT_THAT(refusal(), HasSubstr("manifest.json")) << "byte " << at;
  }
}

TEST_F(Corruption, NewerManifestSaysSo) {
  std::string text = read_file(file("manifest.json"));
  const std::string version = "\"version\": 1";
  text.replace(text.find(version), version.size(), "\"version\": 2");
  write_file(file("manifest.json"), text);
  expect_refused("expected version 1, found 2: it was written by another version of Lockstep");
}

TEST_F(Corruption, NamesThatAreNoStepsArePassedOver) {
  const std::string checkpoints = tiny_.output() + "/checkpoints/";
  for (const char* name : {"step-", "step-5", "step-0000000x", "step-00000009.tmp-17",
                           "step-99999999999999999999", "step-00000007", "notes"}) {
    fs::create_directory(checkpoints + name);
  }
  write_file(checkpoints + "step-00000008", "a file");
  std::string told;
  EXPECT_EQ(taken(&told), 2);
  EXPECT_THAT(told, HasSubstr("step-5: expected a name like step-00000100"));
  EXPECT_THAT(told, HasSubstr("step-0000000x: expected a name"));
  EXPECT_THAT(told, HasSubstr("step-99999999999999999999: expected a name"));
  EXPECT_THAT(told, HasSubstr("step-00000009.tmp-17: it was never finished"));
  EXPECT_THAT(told, HasSubstr("step-00000008: "));
  EXPECT_THAT(told, HasSubstr("found a file"));
  EXPECT_THAT(told, HasSubstr("step-00000007/manifest.json"));
}

TEST_F(Corruption, CheckpointUnderAnotherNameIsPassedOver) {
  fs::rename(tiny_.path(2), tiny_.path(3));
  std::string told;
  EXPECT_EQ(taken(&told), 1);
  EXPECT_THAT(told, HasSubstr("its manifest is of step 2"));
}

TEST_F(Corruption, UnreadableDirectoryIsAnError) {
  const std::string checkpoints = tiny_.output() + "/checkpoints";
  fs::remove_all(checkpoints);
  EXPECT_EQ(taken(), 0);
  write_file(checkpoints, "a file");
  try {
    taken();
    ADD_FAILURE() << "a file was taken for a directory";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kData);
    EXPECT_THAT(error.what(), HasSubstr(checkpoints));
  }
}

}  // namespace
}  // namespace lockstep::testing
