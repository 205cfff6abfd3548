#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "core/error.h"

namespace lockstep::core {

// The whole number in a JSON value of nlohmann's (json or ordered_json). Its own get<> takes a
// fraction for a whole number, wraps what does not fit, and is undefined for a large float. Throws
// Error(kData) unless `json` is a whole number in [least, most].
template <typename Integer, typename Json>
Integer whole_number(const Json& json, Integer least = std::numeric_limits<Integer>::min(),
                     Integer most = std::numeric_limits<Integer>::max()) {
  const auto fits = [&](auto value) {
    return std::cmp_less_equal(least, value) && std::cmp_less_equal(value, most);
  };
  if (json.is_number_unsigned()) {
    const auto value = json.template get<std::uint64_t>();
    if (fits(value)) return static_cast<Integer>(value);
  } else if (json.is_number_integer()) {
    const auto value = json.template get<std::int64_t>();
    if (fits(value)) return static_cast<Integer>(value);
  }
  constexpr std::size_t kLongest = 60;
  const std::string found = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  throw Error(ErrorKind::kData, fmt::format("expected a whole number from {} to {}, found {}",
                                            least, most, found.substr(0, kLongest)));
}

}  // namespace lockstep::core
