#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace lockstep::runtime {

// The letters that byte-level vocabularies write bytes with: bytes 33 to 126, 161 to 172 and 174 to
// 255 are the code points of the same numbers, the other 68, in rising order, U+0100 to U+0143.

// In UTF-8, by byte.
const std::array<std::string, 256>& byte_letters();

// The bytes that a token of letters stands for; nothing if a character is no letter of a byte.
std::optional<std::string> bytes_of_letters(std::string_view letters);

std::string letters_of_bytes(std::string_view bytes);

}  // namespace lockstep::runtime
