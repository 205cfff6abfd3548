#pragma once

#include <cstdint>
#include <string_view>

#include "runtime/data/tokenizer/utf8.h"

namespace lockstep::runtime {

// What the pre-tokenisation patterns ask of a character: bits of its class in Unicode 16.0, which
// `tokenizers` has.
enum UnicodeClass : std::uint8_t {
  kLetter = 1,      // \p{L}
  kNumber = 2,      // \p{N}
  kMark = 4,        // \p{M}
  kWhiteSpace = 8,  // \s: White_Space
  kUpper = 16,      // \p{Lu}, \p{Lt}
  kLower = 32,      // \p{Ll}
  kEndOfText = 64,  // no character
};

// Bits of UnicodeClass, 0 for symbols, unassigned code points and everything above U+10FFFF.
std::uint8_t unicode_class(char32_t code);

// A character with its classes; behind the end of the text {kEndOfText, 0}. A byte that is no UTF-8
// is a symbol (classes 0) of one byte.
struct ClassedChar {
  std::uint8_t classes = kEndOfText;
  int bytes = 0;

  bool is(int mask) const { return (classes & mask) != 0; }
  bool is_symbol() const { return !is(kLetter | kNumber | kWhiteSpace | kEndOfText); }
};

inline ClassedChar classify(const char* at, const char* end) {
  if (at == end) return {};
  const Utf8Char c = decode_utf8(at, end);
  return {unicode_class(c.code), c.bytes};
}

}  // namespace lockstep::runtime
