#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "runtime/config/config.h"

namespace lockstep::runtime {

// What one key holds. A choice is held as its word, a path as text.
using Value = std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>,
                           std::vector<std::int64_t>, std::array<double, 2>,
                           std::vector<FaultConfig>, std::vector<OptimizerGroup>>;

// The shortest decimal form that reads back to the same bits: "0.1", "65536", "1e-8".
std::string format_number(double value);

// The value as YAML on one line (flow style), quoted where plain text would mean something else.
std::string format_value(const Value& value);

const char* word_of(FaultKind kind);
const std::vector<std::string>& fault_words();  // in the order of FaultKind

}  // namespace lockstep::runtime
