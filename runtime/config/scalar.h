#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <yaml-cpp/yaml.h>

namespace lockstep::runtime {

// A value, or what is wrong with the text.
template <typename T>
struct Scalar {
  std::optional<T> value{};
  std::string problem{};
};

Scalar<bool> read_boolean(const YAML::Node& node);
Scalar<std::int64_t> read_integer(const YAML::Node& node);
Scalar<double> read_number(const YAML::Node& node);
Scalar<std::string> read_choice(const YAML::Node& node, const std::vector<std::string>& choices);
Scalar<std::string> read_path(const YAML::Node& node);

}  // namespace lockstep::runtime
