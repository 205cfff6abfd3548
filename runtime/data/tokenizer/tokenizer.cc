#include "runtime/data/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "runtime/data/tokenizer/bpe_tokenizer.h"
#include "runtime/data/tokenizer/byte_tokenizer.h"

namespace lockstep::runtime {

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& choice) {
  constexpr std::string_view kBpe = "bpe:";
  if (choice == "bytes") return std::make_unique<ByteTokenizer>();
  if (choice.starts_with(kBpe) && choice.size() > kBpe.size())
    return read_bpe_tokenizer(choice.substr(kBpe.size()));
  std::string reason = "expected bytes, bpe:PATH or sentencepiece:MODEL";
  if (choice.starts_with("sentencepiece:"))
    reason = "this kind of tokenizer has not been built yet; legal: bytes, bpe:PATH";
  throw core::Error(core::ErrorKind::kConfig, fmt::format("--tokenizer {}: {}", choice, reason));
}

std::unique_ptr<Tokenizer> tokenizer_from_description(const std::string& description,
                                                      const std::string& origin) {
  const auto object = nlohmann::json::parse(description, nullptr, /*allow_exceptions=*/false);
  const auto text = [&object](const char* name) {
    const auto found = object.find(name);
    return found != object.end() && found->is_string() ? found->get<std::string>() : "";
  };
  if (object.is_object()) {
    if (text("type") == "bytes") return std::make_unique<ByteTokenizer>();
    if (text("type") == "bpe")
      return std::make_unique<BpeTokenizer>(text("tokenizer_json"), text("end_of_text"), origin);
  }
  throw core::Error(
      core::ErrorKind::kData,
      fmt::format("{}: expected the description of a tokenizer of type bytes or bpe, "
                  "found {}; prepare the data again, or use the version that made it",
                  origin, description.empty() ? "nothing" : description.substr(0, 200)));
}

}  // namespace lockstep::runtime
