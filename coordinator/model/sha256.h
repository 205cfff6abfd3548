#pragma once

#include <string>
#include <string_view>

namespace lockstep::coordinator {

// SHA-256 as 64 lower-case hex digits.
std::string sha256_hex(std::string_view text);

// `bytes` (an even number of digits come out) from the system's generator, as hex. Throws
// core::Error(kInternal) if it has none.
std::string random_hex(int bytes);

}  // namespace lockstep::coordinator
