#pragma once

#include <cstddef>
#include <string>

namespace lockstep::runtime {

// What stands for a byte that belongs to no character.
inline constexpr char32_t kInvalidByte = 0xFFFD;

struct Utf8Char {
  char32_t code = 0;
  int bytes = 0;
  bool valid = true;
};

// The character at `at` (< end). Where the bytes are no UTF-8 (overlong forms, surrogates and
// everything above U+10FFFF included), one byte is taken: kInvalidByte, valid = false.
inline Utf8Char decode_utf8(const char* at, const char* end) {
  const auto byte = [at](int i) { return static_cast<unsigned char>(at[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const int bytes = lead < 0xC2 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 1;
  if (bytes == 1 || end - at < bytes) return {kInvalidByte, 1, false};
  char32_t code = lead & (0xFFU >> (bytes + 1));
  for (int i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0U) != 0x80) return {kInvalidByte, 1, false};
    code = code << 6 | (byte(i) & 0x3FU);
  }
  const bool overlong = (bytes == 3 && code < 0x800) || (bytes == 4 && code < 0x10000);
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  if (overlong || surrogate || code > 0x10FFFF) return {kInvalidByte, 1, false};
  return {code, bytes, true};
}

inline void append_utf8(std::string& text, char32_t code) {
  const auto put = [&text](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  const auto tail = [&](int shift) { put(0x80U | (code >> shift & 0x3FU)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0U | code >> 6), tail(0);
  } else if (code < 0x10000) {
    put(0xE0U | code >> 12), tail(6), tail(0);
  } else {
    put(0xF0U | code >> 18), tail(12), tail(6), tail(0);
  }
}

// How many characters, a byte that belongs to none counted as one.
std::size_t count_characters(std::string_view text);

}  // namespace lockstep::runtime
