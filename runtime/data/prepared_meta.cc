#include "runtime/data/prepared_meta.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/input_file.h"

namespace lockstep::runtime {

namespace {

using core::Error;
using core::ErrorKind;
using nlohmann::json;

constexpr int kVersion = 1;
constexpr const char* kAdvice = "; prepare the data again with `lockstep data prepare`";

class MetaReader {
 public:
  MetaReader(std::string path, json object) : path_(std::move(path)), object_(std::move(object)) {
    if (!object_.is_object()) fail("expected a JSON object");
  }

  [[noreturn]] void fail(const std::string& message) const {
    throw Error(ErrorKind::kData, fmt::format("{}: {}{}", path_, message, kAdvice));
  }

  const json& field(const char* name) const {
    const auto found = object_.find(name);
    if (found == object_.end()) fail(fmt::format("expected a field \"{}\", found none", name));
    return *found;
  }

  std::uint64_t count(const char* name) const {
    const json& value = field(name);
    if (!value.is_number_unsigned())
      fail(fmt::format("\"{}\": expected a whole number >= 0, found {}", name, value.dump()));
    return value.get<std::uint64_t>();
  }

  std::string text(const char* name) const {
    const json& value = field(name);
    if (!value.is_string())
      fail(fmt::format("\"{}\": expected a string, found {}", name, value.dump()));
    return value.get<std::string>();
  }

  core::DType token_type() const {
    const std::string name = text("token_type");
    if (name == "uint16") return core::DType::kU16;
    if (name == "uint32") return core::DType::kU32;
    fail(fmt::format("\"token_type\": expected uint16 or uint32, found \"{}\"", name));
  }

  std::vector<SourceText> sources() const {
    const json& list = field("sources");
    if (!list.is_array()) fail("\"sources\": expected a list");
    std::vector<SourceText> sources;
    for (const json& entry : list) {
      const MetaReader reader(path_, entry);
      sources.push_back(
          {reader.text("name"), reader.count("bytes"), core::parse_hex64(reader.text("xxh3"))});
    }
    return sources;
  }

 private:
  std::string path_;
  json object_;
};

MetaReader open_meta(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kMetaFile;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored))
    throw Error(ErrorKind::kData,
                fmt::format("{}: expected a directory made by `lockstep data prepare` (with {}, {} "
                            "and {}), found no {}; name the token files themselves or prepare the "
                            "directory",
                            directory.string(), kTrainFile, kValidationFile, kMetaFile, kMetaFile));
  json object = json::parse(core::read_text(path), nullptr, /*allow_exceptions=*/false);
  return MetaReader(path.string(), std::move(object));
}

}  // namespace

std::string_view token_type_name(core::DType token_type) {
  LOCKSTEP_CHECK(token_type == core::DType::kU16 || token_type == core::DType::kU32,
                 "token type {}", core::name_of(token_type));
  return token_type == core::DType::kU16 ? "uint16" : "uint32";
}

std::string to_json(const PreparedMeta& meta) {
  nlohmann::ordered_json object;
  object["version"] = kVersion;
  object["tokenizer"] = nlohmann::ordered_json::parse(meta.tokenizer);
  object["vocab"] = meta.vocab;
  object["token_type"] = token_type_name(meta.token_type);
  object["train_tokens"] = meta.train_tokens;
  object["validation_tokens"] = meta.validation_tokens;
  object["sources"] = nlohmann::ordered_json::array();
  for (const SourceText& source : meta.sources)
    object["sources"].push_back(
        {{"name", source.name}, {"bytes", source.bytes}, {"xxh3", core::to_hex(source.hash)}});
  return object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

PreparedMeta read_prepared_meta(const std::filesystem::path& directory) {
  const MetaReader reader = open_meta(directory);
  if (const std::uint64_t version = reader.count("version"); version != kVersion)
    reader.fail(fmt::format("\"version\": expected {}, found {}", kVersion, version));
  if (!reader.field("tokenizer").is_object()) reader.fail("\"tokenizer\": expected an object");
  PreparedMeta meta;
  meta.tokenizer = reader.field("tokenizer").dump();
  meta.token_type = reader.token_type();
  const std::uint64_t vocab = reader.count("vocab");
  if (vocab == 0 || vocab > (1ULL << 31))
    reader.fail(fmt::format("\"vocab\": expected 1 to 2^31, found {}", vocab));
  meta.vocab = static_cast<std::int64_t>(vocab);
  meta.train_tokens = reader.count("train_tokens");
  meta.validation_tokens = reader.count("validation_tokens");
  meta.sources = reader.sources();
  return meta;
}

}  // namespace lockstep::runtime
