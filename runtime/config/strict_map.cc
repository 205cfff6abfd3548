#include "runtime/config/strict_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "runtime/config/document.h"
#include "runtime/config/nearest.h"
#include "runtime/config/scalar.h"

namespace lockstep::runtime {

PlacedNode parse_yaml(std::string_view text, const std::string& source) {
  return {read_one_document(text, source), {source, 1, 1}};
}

Location place_of(const YAML::Node& node, const Location& fallback) {
  const YAML::Mark mark = node.Mark();
  if (fallback.line == 0 || mark.is_null() || node.IsNull()) return fallback;
  return {fallback.source, mark.line + 1, mark.column + 1};
}

StrictMap::StrictMap(const PlacedNode& map, std::string path, const std::vector<std::string>& legal,
                     Problems& problems)
    : self_(map), path_(std::move(path)), problems_(problems) {
  if (map.node.IsNull() || !map.node.IsDefined()) return;
  if (!map.node.IsMap()) {
    problems_.add(map.where, path_,
                  fmt::format("expected a map of keys ({}), found {}", join_words(legal),
                              describe_node(map.node)));
    return;
  }
  for (const auto& item : map.node)
    take(item.first, item.second, legal);
}

void StrictMap::take(const YAML::Node& key, const YAML::Node& value,
                     const std::vector<std::string>& legal) {
  const Location where = place_of(key, self_.where);
  const std::string name = key.IsScalar() ? key.Scalar() : "";
  if (std::find(legal.begin(), legal.end(), name) == legal.end()) {
    const std::string nearest = nearest_word(name, legal);
    problems_.add(where, path_of(name),
                  fmt::format("unknown key{} Legal here: {}",
                              nearest.empty() ? "." : "; did you mean '" + nearest + "'?",
                              join_words(legal)));
    return;
  }
  const auto [earlier, is_new] = nodes_.emplace(name, PlacedNode{value, place_of(value, where)});
  if (!is_new) {
    problems_.add(where, path_of(name),
                  "duplicate key; it was given at " + earlier->second.where.text() +
                      " already, remove one of the two");
  }
}

PlacedNode StrictMap::at(const std::string& name) const {
  const auto found = nodes_.find(name);
  return found == nodes_.end() ? PlacedNode{YAML::Node(), self_.where} : found->second;
}

std::string StrictMap::path_of(const std::string& name) const {
  if (path_.empty()) return name;
  return name.empty() ? path_ : path_ + "." + name;
}

void StrictMap::problem(const std::string& name, const std::string& message) {
  problems_.add(at(name).where, path_of(name), message);
}

bool StrictMap::scalar(const std::string& name, const std::string& expected) {
  if (!has(name)) return false;
  if (at(name).node.IsScalar()) return true;
  problem(name, fmt::format("expected {}, found {}", expected, describe_node(at(name).node)));
  return false;
}

void StrictMap::read(const std::string& name, std::int64_t& target, std::int64_t low,
                     std::int64_t high) {
  const std::string legal = fmt::format("an integer from {} to {}", low, high);
  if (!scalar(name, legal)) return;
  const Scalar<std::int64_t> number = read_integer(at(name).node);
  if (!number.value) {
    problem(name, number.problem + "; legal: " + legal);
  } else if (*number.value < low || *number.value > high) {
    problem(name, fmt::format("found {}; legal: {}", *number.value, legal));
  } else {
    target = *number.value;
  }
}

void StrictMap::read(const std::string& name, std::int32_t& target, std::int32_t low,
                     std::int32_t high) {
  std::int64_t wide = target;
  read(name, wide, low, high);
  target = static_cast<std::int32_t>(wide);
}

void StrictMap::read(const std::string& name, double& target, double low, double high) {
  const std::string legal = fmt::format("a number from {} to {}", low, high);
  if (!scalar(name, legal)) return;
  const Scalar<double> number = read_number(at(name).node);
  if (!number.value) {
    problem(name, number.problem + "; legal: " + legal);
  } else if (!(*number.value >= low && *number.value <= high)) {
    problem(name, fmt::format("found {}; legal: {}", *number.value, legal));
  } else {
    target = *number.value;
  }
}

void StrictMap::read(const std::string& name, bool& target) {
  if (!scalar(name, "true or false")) return;
  const Scalar<bool> value = read_boolean(at(name).node);
  if (value.value) {
    target = *value.value;
  } else {
    problem(name, value.problem + "; legal: true or false");
  }
}

void StrictMap::read_seconds(const std::string& name, std::int64_t& target_ns) {
  constexpr double kMost = 1e6;
  const std::string legal = fmt::format("a number of seconds from 0 to {:.0f}", kMost);
  if (!scalar(name, legal)) return;
  const Scalar<double> seconds = read_number(at(name).node);
  if (!seconds.value) {
    problem(name, seconds.problem + "; legal: " + legal);
  } else if (*seconds.value < 0.0 || *seconds.value > kMost) {
    problem(name, fmt::format("found {}; legal: {}", *seconds.value, legal));
  } else {
    target_ns = std::llround(*seconds.value * 1e9);
  }
}

void StrictMap::read(const std::string& name, std::string& target) {
  if (!scalar(name, "a text")) return;
  if (at(name).node.Scalar().empty()) {
    problem(name, "the text is empty; leave the key out for its default");
  } else {
    target = at(name).node.Scalar();
  }
}

void StrictMap::read_choice(const std::string& name, std::string& target,
                            const std::vector<std::string>& choices) {
  const std::string legal = "one of " + join_words(choices);
  if (!scalar(name, legal)) return;
  const Scalar<std::string> choice = runtime::read_choice(at(name).node, choices);
  if (choice.value) {
    target = *choice.value;
  } else {
    problem(name, choice.problem + "; legal: " + legal);
  }
}

void StrictMap::read(const std::string& name, std::filesystem::path& target) {
  if (!scalar(name, "a path")) return;
  const Scalar<std::string> path = read_path(at(name).node);
  if (path.value) {
    target = std::filesystem::absolute(*path.value).lexically_normal();
  } else {
    problem(name, path.problem);
  }
}

std::vector<PlacedNode> StrictMap::list(const std::string& name) const {
  if (!has(name)) return {};
  const PlacedNode whole = at(name);
  if (!whole.node.IsSequence()) return {whole};
  std::vector<PlacedNode> elements;
  for (const YAML::Node& element : whole.node)
    elements.push_back({element, place_of(element, whole.where)});
  return elements;
}

}  // namespace lockstep::runtime
