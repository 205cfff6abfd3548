#include "launcher/utf8_stream.h"

namespace lockstep::launcher {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

// The first bytes of characters of several bytes. The range of the second byte leaves out overlong
// forms, surrogates and what lies beyond U+10FFFF (The Unicode Standard, table 3-7).
bool Utf8Stream::begins(unsigned char byte) {
  low_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  high_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
  missing_ = byte >= 0xC2 && byte <= 0xDF   ? 1
             : byte >= 0xE0 && byte <= 0xEF ? 2
             : byte >= 0xF0 && byte <= 0xF4 ? 3
                                            : 0;
  return missing_ > 0;
}

void Utf8Stream::take(unsigned char byte, std::string& out) {
  if (missing_ > 0 && (byte < low_ || byte > high_)) out += finish();
  if (missing_ > 0) {
    pending_.push_back(static_cast<char>(byte));
    low_ = 0x80;
    high_ = 0xBF;
    if (--missing_ > 0) return;
    out += pending_;
    pending_.clear();
  } else if (byte < 0x80) {
    out.push_back(static_cast<char>(byte));
  } else if (begins(byte)) {
    pending_.push_back(static_cast<char>(byte));
  } else {
    out += kReplacement;
  }
}

std::string Utf8Stream::push(std::string_view bytes) {
  std::string out;
  for (const char c : bytes)
    take(static_cast<unsigned char>(c), out);
  return out;
}

std::string Utf8Stream::finish() {
  const bool cut = missing_ > 0;
  pending_.clear();
  missing_ = 0;
  return cut ? std::string(kReplacement) : std::string();
}

}  // namespace lockstep::launcher
