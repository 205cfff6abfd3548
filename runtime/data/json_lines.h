#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace lockstep::runtime {

// Calls `visit` with the object of each line that is not blank, and its place ("FILE:LINE"). Throws
// Error(kData) naming the place for a line that is no JSON object.
void visit_json_lines(std::string_view text, const std::string& file,
                      const std::function<void(const nlohmann::json&, const std::string&)>& visit);

// A field that must be a string. Throws Error(kData) naming place and field.
std::string text_of_field(const nlohmann::json& object, const std::string& name,
                          const std::string& place);

// What such an error says: `found` may be null for a missing field.
[[noreturn]] void fail_on_field(const nlohmann::json* found, const std::string& name,
                                const std::string& expected, const std::string& place);

}  // namespace lockstep::runtime
