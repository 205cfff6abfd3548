#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::runtime {

// Turns text into token ids and back. Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::int64_t vocab() const = 0;  // ids are in [0, vocab())

  // Text is any bytes; how bytes that are not UTF-8 are met is the tokenizer's business.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;

  // Throws Error(kData) for an id outside the vocabulary. One character may span several ids, so
  // the decoding of part of a text may end within a character.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;

  // A JSON object, as text in one line, from which tokenizer_from_description makes an equal
  // tokenizer: {"type": NAME, ...}. Stored in meta.json and in checkpoints.
  virtual std::string description() const = 0;
};

// One token for each byte: vocabulary 256, {"type":"bytes"}.
class ByteTokenizer final : public Tokenizer {
 public:
  std::int64_t vocab() const override { return 256; }
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::string description() const override;
};

// The tokenizer that `--tokenizer` names: "bytes". Throws Error(kConfig) for anything else, with
// the reason for "bpe:DIR" and "sentencepiece:MODEL", which this version does not have.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& choice);

// From a stored description. Throws Error(kData) when it is malformed or of an unknown type;
// `origin` (a file) begins the message.
std::unique_ptr<Tokenizer> tokenizer_from_description(const std::string& description,
                                                      const std::string& origin);

}  // namespace lockstep::runtime
