// docs/configuration.md, `config defaults` and the shipped configurations agree with the schema.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>

#include "runtime/config/describe.h"
#include "runtime/config/load_config.h"
#include "runtime/config/nearest.h"
#include "runtime/config/schema.h"
#include "tests/runtime/config/sample_config.h"

namespace lockstep::runtime {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

fs::path source_folder() {
  const char* folder = std::getenv("LOCKSTEP_SOURCE_DIR");
  if (folder == nullptr) throw std::runtime_error("set LOCKSTEP_SOURCE_DIR, as ctest does");
  return folder;
}

std::string read(const fs::path& file) {
  std::ifstream stream(file);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

TEST(DocumentationTest, PageHoldsTheTablesOfTheSchema) {
  const fs::path page = source_folder() / "docs/configuration.md";
  const std::string text = read(page);
  const std::size_t begin = text.find('\n', text.find("<!-- keys: begin")) + 1;
  const std::size_t end = text.find("<!-- keys: end");
  ASSERT_NE(end, std::string::npos);
  const std::string expected = fmt::format("\n{}\n", defaults_as_markdown());
  if (std::getenv("LOCKSTEP_UPDATE_DOCS") != nullptr) {
    std::ofstream(page) << text.substr(0, begin) << expected << text.substr(end);
    return;
  }
  EXPECT_EQ(text.substr(begin, end - begin), expected)
      << "run it with LOCKSTEP_UPDATE_DOCS=1 to write the page anew";
}

TEST(SchemaTest, EveryKeyIsDescribedOnceInAnExistingSection) {
  std::set<std::string> paths;
  for (const Key& key : schema_keys()) {
    EXPECT_TRUE(paths.insert(key.path).second) << key.path << " twice";
    EXPECT_FALSE(key.meaning.empty()) << key.path;
    EXPECT_TRUE(key.path == "fault" || is_section(key.section())) << key.path;
  }
  EXPECT_EQ(paths.size(), 123U) << "a key was added or removed: the contract has a fixed list";
}

TEST(DefaultsAsYamlTest, IsALegalConfigurationOnceTheRequiredKeysAreFilledIn) {
  const std::string text = defaults_as_yaml();
  for (const Key& key : schema_keys())
    EXPECT_THAT(text, HasSubstr(key.name() + ":"));
  const Config config =
      parse_config(text, "sample.yaml",
                   {"model.layers=2", "model.heads=2", "model.width=64", "model.context=32",
                    "model.vocab=256", "data.train=train.bin", "batch.global=8", "batch.micro=2",
                    "train.steps=100", "optimizer.learning_rate=1e-3"});
  const Config plain = parse_config(test::sample_config(1, ""), "sample.yaml");
  for (const Key& key : schema_keys())
    EXPECT_EQ(key.get(config), key.get(plain)) << key.path;
}

TEST(DefaultsAsJsonTest, HasEveryKey) {
  const auto list = nlohmann::json::parse(defaults_as_json());
  ASSERT_EQ(list.size(), schema_keys().size());
  EXPECT_EQ(list[1]["key"], "run.seed");
  EXPECT_EQ(list[1]["default"], "1337");
}

TEST(ShippedConfigurationsTest, AreLegal) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(source_folder() / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    if (entry.path().filename() == "coordinator.yaml") continue;  // not of a training
    ++count;
    const Config config = load_config(entry.path());
    validate_for_world(config, 1);
    validate_for_world(config, 2);
  }
  EXPECT_GE(count, 3);
}

TEST(NearestWordTest, FindsSlipsAndKeepsQuietOtherwise) {
  EXPECT_EQ(edit_distance("layers", "layers"), 0U);
  EXPECT_EQ(edit_distance("lyaers", "layers"), 1U);
  EXPECT_EQ(edit_distance("", "abc"), 3U);
  EXPECT_EQ(nearest_word("learnign_rate", {"eps", "learning_rate"}), "learning_rate");
  EXPECT_EQ(nearest_word("zzz", {"eps", "learning_rate"}), "");
}

}  // namespace
}  // namespace lockstep::runtime
