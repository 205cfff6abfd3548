#include "coordinator/model/coordinator_policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "runtime/config/document.h"
#include "runtime/config/problems.h"
#include "runtime/config/strict_map.h"

namespace lockstep::coordinator {

using runtime::PlacedNode;
using runtime::StrictMap;

namespace {

constexpr std::array<std::string_view, 4> kSteering = {"OMPI_", "PMIX_", "PRTE_", "LOCKSTEP_"};

bool is_steering(std::string_view name) {
  return std::any_of(kSteering.begin(), kSteering.end(),
                     [&](std::string_view prefix) { return name.starts_with(prefix); });
}

bool is_pattern(std::string_view text) {
  if (text.ends_with('*')) text.remove_suffix(1);
  return text.empty() || is_variable_name(text);
}

std::vector<std::string> read_patterns(StrictMap& map, const std::string& key,
                                       runtime::Problems& problems) {
  std::vector<std::string> patterns;
  for (const PlacedNode& element : map.list(key)) {
    const std::string text = element.node.IsScalar() ? element.node.Scalar() : "";
    if (text.empty() || !is_pattern(text)) {
      problems.add(element.where, map.path_of(key),
                   "found " + runtime::describe_node(element.node) +
                       "; legal: the name of a variable, or how names begin with a '*' behind it, "
                       "such as NCCL_*");
    } else if (is_steering(text)) {
      problems.add(element.where, map.path_of(key),
                   text +
                       ": variables of OMPI_, PMIX_, PRTE_ and LOCKSTEP_ steer the ranks and "
                       "never come from outside");
    } else {
      patterns.push_back(text);
    }
  }
  return patterns;
}

// "90s", "15m", "2h", "30d".
bool parse_age(const std::string& text, std::int64_t& ns) {
  double number = 0.0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (result.ec != std::errc() || !(number >= 0.0) || end - result.ptr != 1) return false;
  constexpr std::pair<char, double> kUnits[] = {
      {'s', 1.0}, {'m', 60.0}, {'h', 3600.0}, {'d', 86400.0}};
  for (const auto& [unit, seconds] : kUnits) {
    if (*result.ptr != unit) continue;
    const double total = number * seconds;
    if (total > 1e9) return false;
    ns = std::llround(total * 1e9);
    return true;
  }
  return false;
}

void read_age(StrictMap& map, const std::string& key, std::int64_t& ns) {
  std::string text;
  map.read(key, text);
  if (!text.empty() && !parse_age(text, ns)) {
    map.problem(key,
                fmt::format("found '{}'; legal: how long, such as 90s, 15m, 12h or 30d", text));
  }
}

std::vector<std::string> read_command(const PlacedNode& element, const std::string& path,
                                      runtime::Problems& problems) {
  std::vector<std::string> words;
  const bool list = element.node.IsSequence() && element.node.size() > 0;
  for (std::size_t i = 0; list && i < element.node.size(); ++i) {
    if (element.node[i].IsScalar()) words.push_back(element.node[i].Scalar());
  }
  const bool whole = list && words.size() == element.node.size();
  if (!whole || !words.front().starts_with("/")) {
    problems.add(element.where, path,
                 "expected a command as a list of words, the first an absolute path, such as "
                 "[/usr/bin/logger, a run has ended]; no shell reads it");
    return {};
  }
  return words;
}

}  // namespace

bool is_variable_name(std::string_view name) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !name.empty() && letter(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

bool allows_variable(const std::vector<std::string>& patterns, std::string_view name) {
  if (!is_variable_name(name) || is_steering(name)) return false;
  return std::any_of(patterns.begin(), patterns.end(), [&](std::string_view pattern) {
    if (!pattern.ends_with('*')) return pattern == name;
    pattern.remove_suffix(1);
    return name.starts_with(pattern);
  });
}

void read_environment(StrictMap& root, EnvironmentPolicy& policy, runtime::Problems& problems) {
  StrictMap map(root.at("environment"), "environment", {"pass", "runs"}, problems);
  policy.pass = read_patterns(map, "pass", problems);
  policy.runs = read_patterns(map, "runs", problems);
}

void read_retention(StrictMap& root, RetentionPolicy& policy, runtime::Problems& problems) {
  StrictMap map(root.at("retention"), "retention", {"runs", "age", "attempts", "logs"}, problems);
  map.read("runs", policy.runs, 0, std::int64_t{1} << 40);
  map.read("attempts", policy.attempts, 0, std::numeric_limits<std::int32_t>::max());
  read_age(map, "age", policy.age_ns);
  read_age(map, "logs", policy.logs_ns);
}

void read_hooks(StrictMap& root, HookPolicy& policy, runtime::Problems& problems) {
  StrictMap map(root.at("hooks"), "hooks", {"run_ended", "timeout_seconds"}, problems);
  for (const PlacedNode& element : map.list("run_ended")) {
    auto command = read_command(element, map.path_of("run_ended"), problems);
    if (!command.empty()) policy.run_ended.push_back(std::move(command));
  }
  map.read_seconds("timeout_seconds", policy.timeout_ns);
}

}  // namespace lockstep::coordinator
