#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep::core {

// "1 rank", "4 ranks", "2 micro-batches".
inline std::string counted(std::int64_t number, std::string_view word) {
  return fmt::format("{} {}{}", number, word, number == 1 ? "" : word.ends_with("ch") ? "es" : "s");
}

}  // namespace lockstep::core
