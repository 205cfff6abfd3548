#pragma once

#include <string>

namespace lockstep::core {

// A double as JSON text: the shortest decimal form that reads back to the same bits; null when not
// finite.
std::string json_number(double value);

// A string as a quoted and escaped JSON text (bytes that are not UTF-8 are replaced).
std::string json_string(const std::string& text);

}  // namespace lockstep::core
