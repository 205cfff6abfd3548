#pragma once

#include <string>

namespace lockstep::runtime {

// Every key with its default and meaning, as a commented YAML file. Keys without a fixed default
// are commented out; with the required ones filled in it is a legal configuration.
std::string defaults_as_yaml();

// The same as a JSON array of {key, type, default, legal, meaning, required, not_built}.
std::string defaults_as_json();

// The tables of docs/configuration.md, between its two markers.
std::string defaults_as_markdown();

}  // namespace lockstep::runtime
