#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace lockstep::runtime {

// JSON files that show when they were altered: the last field, "xxh3", is the XXH3-64 of the text
// without that field. Indented by two spaces, ending in a newline.
std::string sealed_text(nlohmann::ordered_json json);

// Whether `text`, from which `json` was read, is byte for byte what sealed_text() gave.
bool is_sealed(nlohmann::ordered_json json, const std::string& text);

}  // namespace lockstep::runtime
