#include "runtime/data/tokenizer/byte_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "runtime/data/tokenizer/byte_alphabet.h"
#include "runtime/data/tokenizer/tokenizer_json.h"

namespace lockstep::runtime {

std::vector<std::int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  ids.reserve(text.size());
  for (const char c : text)
    ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

std::size_t ByteTokenizer::cut_before(std::string_view text, std::size_t at) const {
  return std::min(at, text.size());
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

std::string ByteTokenizer::tokenizer_json() const {
  BpeVocabulary vocabulary;
  for (std::int32_t byte = 0; byte < 256; ++byte)
    vocabulary.tokens.emplace_back(byte_letters()[static_cast<std::size_t>(byte)], byte);
  return write_tokenizer_json(vocabulary, {}, SplitPattern::kNone);
}

}  // namespace lockstep::runtime
