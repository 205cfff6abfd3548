#pragma once

#include <string>
#include <string_view>

namespace lockstep::runtime {

// Unicode's normalisation form C, with the data of `tokenizers` 0.23 (older than Unicode 16.0).
// Bytes that are no UTF-8 stay as they are and nothing composes across them.
std::string normalize_nfc(std::string_view text);

}  // namespace lockstep::runtime
