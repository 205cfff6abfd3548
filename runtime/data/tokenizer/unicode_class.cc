#include "runtime/data/tokenizer/unicode_class.h"

#include <vector>

#include "runtime/data/tokenizer/unicode_class_table.h"

namespace lockstep::runtime {

namespace {

constexpr std::size_t kCodePoints = 0x110000;

// One byte a code point: 1.1 MB, of which a text touches the lines of its scripts.
std::vector<std::uint8_t> expand() {
  std::vector<std::uint8_t> classes(kCodePoints);
  for (std::size_t i = 0; i < kUnicodeClassRuns.size(); ++i) {
    const bool last = i + 1 == kUnicodeClassRuns.size();
    const std::size_t end = last ? kCodePoints : kUnicodeClassRuns[i + 1].begin;
    for (std::size_t code = kUnicodeClassRuns[i].begin; code < end; ++code)
      classes[code] = kUnicodeClassRuns[i].classes;
  }
  return classes;
}

}  // namespace

std::uint8_t unicode_class(char32_t code) {
  static const std::vector<std::uint8_t> classes = expand();
  return code < kCodePoints ? classes[code] : 0;
}

std::size_t count_characters(std::string_view text) {
  std::size_t characters = 0;
  for (const char *at = text.data(), *end = at + text.size(); at != end; ++characters)
    at += decode_utf8(at, end).bytes;
  return characters;
}

}  // namespace lockstep::runtime
