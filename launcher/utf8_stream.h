#pragma once

#include <string>
#include <string_view>

namespace lockstep::launcher {

// Makes valid UTF-8 of bytes that come in pieces of any length. A character is passed on when its
// last byte is there; every maximal part of one that cannot be completed becomes U+FFFD (The
// Unicode Standard, "U+FFFD Substitution of Maximal Subparts").
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);  // what is complete now
  std::string finish();                      // what is left, at the end

 private:
  void take(unsigned char byte, std::string& out);
  bool begins(unsigned char byte);

  std::string pending_;       // the beginning of a character
  int missing_ = 0;           // bytes to its end
  unsigned char low_ = 0x80;  // the next byte must lie in [low_, high_]
  unsigned char high_ = 0xBF;
};

}  // namespace lockstep::launcher
