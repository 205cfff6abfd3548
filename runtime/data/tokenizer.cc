#include "runtime/data/tokenizer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace lockstep::runtime {

std::vector<std::int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  ids.reserve(text.size());
  for (const char c : text)
    ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

std::string ByteTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  text.reserve(ids.size());
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocab())
      throw core::Error(core::ErrorKind::kData,
                        fmt::format("expected ids of the byte tokenizer, 0 to 255, found {}; use "
                                    "the tokenizer with which the data was made",
                                    id));
    text.push_back(static_cast<char>(id));
  }
  return text;
}

std::string ByteTokenizer::description() const {
  return R"({"type":"bytes"})";
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& choice) {
  if (choice == "bytes") return std::make_unique<ByteTokenizer>();
  std::string reason = "expected bytes, bpe:DIR or sentencepiece:MODEL";
  if (choice.starts_with("bpe:") || choice.starts_with("sentencepiece:"))
    reason = "this kind of tokenizer has not been built yet; legal: bytes";
  throw core::Error(core::ErrorKind::kConfig, fmt::format("--tokenizer {}: {}", choice, reason));
}

std::unique_ptr<Tokenizer> tokenizer_from_description(const std::string& description,
                                                      const std::string& origin) {
  const auto object = nlohmann::json::parse(description, nullptr, /*allow_exceptions=*/false);
  if (object.is_object() && object.contains("type") && object["type"] == "bytes")
    return std::make_unique<ByteTokenizer>();
  throw core::Error(core::ErrorKind::kData,
                    fmt::format("{}: expected the description of a tokenizer of type bytes, found "
                                "{}; prepare the data again, or use the version that made it",
                                origin, description.empty() ? "nothing" : description));
}

}  // namespace lockstep::runtime
