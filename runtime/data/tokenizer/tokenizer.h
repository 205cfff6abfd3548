#pragma once

#include <cstdint>
#include <memory>
#include <optional>
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

  // Text is any bytes; how bytes that are not UTF-8 are met is the tokenizer's business. The text of
  // a special token is text like any other: what data is made of cannot forge one.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;

  // The same, but the text of a special token becomes the token, as in prompts.
  virtual std::vector<std::int32_t> encode_special(std::string_view text) const {
    return encode(text);
  }

  // What stands before and behind a whole text, as the BOS of Llama 3.
  virtual std::vector<std::int32_t> beginning() const { return {}; }
  virtual std::vector<std::int32_t> ending() const { return {}; }

  // The token that ends a document and, in sampling, an answer.
  virtual std::optional<std::int32_t> end_of_text() const { return std::nullopt; }

  // Whether an id stands for no text of its own.
  virtual bool special(std::int32_t) const { return false; }

  // The greatest place in (0, at] such that encode(text) is encode of what is before it and encode
  // of what is behind it; 0 for none.
  virtual std::size_t cut_before(std::string_view text, std::size_t at) const = 0;

  // The text of the tokens, one after the other, special ones written out. Throws Error(kData) for
  // an id outside the vocabulary. One character may span several ids, so the decoding of part of a
  // text may end within a character.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;

  // A JSON object, as text in one line, from which tokenizer_from_description makes an equal
  // tokenizer: {"type": NAME, ...}. Stored in meta.json and in checkpoints.
  virtual std::string description() const = 0;

  // A tokenizer.json for `tokenizers`, in one line.
  virtual std::string tokenizer_json() const = 0;
};

// The tokenizer that `--tokenizer` names: "bytes", or "bpe:PATH" with PATH a tokenizer.json, a
// directory with one or with vocab.json and merges.txt, or such a vocab.json. Throws Error(kConfig)
// for anything else, with the reason for "sentencepiece:MODEL", which this version does not have;
// Error(kData) for what cannot be read.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& choice);

// From a stored description. Throws Error(kData) when it is malformed or of an unknown type;
// `origin` (a file) begins the message.
std::unique_ptr<Tokenizer> tokenizer_from_description(const std::string& description,
                                                      const std::string& origin);

}  // namespace lockstep::runtime
