#include "runtime/data/tokenizer/byte_alphabet.h"

#include "runtime/data/tokenizer/utf8.h"

namespace lockstep::runtime {

namespace {

constexpr int kCodes = 0x144;

bool stands_for_itself(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

struct Alphabet {
  Alphabet() {
    bytes.fill(-1);
    int next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const int code = stands_for_itself(byte) ? byte : next++;
      append_utf8(letters[static_cast<std::size_t>(byte)], static_cast<char32_t>(code));
      bytes[static_cast<std::size_t>(code)] = byte;
    }
  }
  std::array<std::string, 256> letters;  // by byte
  std::array<int, kCodes> bytes{};       // by code point; -1: none
};

const Alphabet& alphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

const std::array<std::string, 256>& byte_letters() {
  return alphabet().letters;
}

std::optional<std::string> bytes_of_letters(std::string_view letters) {
  std::string bytes;
  for (const char *at = letters.data(), *end = at + letters.size(); at != end;) {
    const Utf8Char c = decode_utf8(at, end);
    if (!c.valid || c.code >= kCodes || alphabet().bytes[c.code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(alphabet().bytes[c.code]));
    at += c.bytes;
  }
  return bytes;
}

std::string letters_of_bytes(std::string_view bytes) {
  std::string letters;
  for (const char c : bytes)
    letters += byte_letters()[static_cast<unsigned char>(c)];
  return letters;
}

}  // namespace lockstep::runtime
