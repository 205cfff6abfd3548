#include "runtime/config/scalar.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <string_view>
#include <system_error>

#include "runtime/config/document.h"
#include "runtime/config/nearest.h"

namespace lockstep::runtime {
namespace {

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// yaml-cpp marks quoted scalars with the tag "!"; "!!str 3" says the same.
bool is_quoted(const YAML::Node& node) {
  return node.Tag() == "!" || node.Tag() == "tag:yaml.org,2002:str";
}

std::size_t count_digits(std::string_view text) {
  const auto end =
      std::find_if(text.begin(), text.end(), [](char c) { return c < '0' || c > '9'; });
  return static_cast<std::size_t>(end - text.begin());
}

// The parts of [-]digits[.digits][e[+-]digits].
struct NumberText {
  bool valid = false;
  bool plain_integer = false;
  bool leading_zero = false;
};

NumberText examine_number(std::string_view text) {
  NumberText result;
  if (text.starts_with('-')) text.remove_prefix(1);
  const std::size_t whole = count_digits(text);
  result.leading_zero = whole > 1 && text[0] == '0';
  text.remove_prefix(whole);
  result.plain_integer = whole > 0 && text.empty();
  std::size_t fraction = 0;
  if (text.starts_with('.')) {
    fraction = count_digits(text.substr(1));
    text.remove_prefix(1 + fraction);
  }
  if (whole + fraction == 0) return result;
  if (text.starts_with('e') || text.starts_with('E')) {
    text.remove_prefix(1);
    if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
    const std::size_t exponent = count_digits(text);
    if (exponent == 0) return result;
    text.remove_prefix(exponent);
  }
  result.valid = text.empty();
  return result;
}

// What keeps a node from being a number of any kind, or "".
std::string number_problem(const YAML::Node& node) {
  if (!node.IsScalar()) return "expected a number, found " + describe_node(node);
  const std::string text = node.Scalar();
  if (is_quoted(node)) return "expected a number, found the quoted text '" + text + "'";
  const NumberText number = examine_number(text);
  if (number.leading_zero) {
    return "'" + text + "' has a leading zero, which some readers take for octal; write it without";
  }
  if (number.valid) return "";
  const std::string word = lower_case(text);
  if (word.ends_with("inf") || word.ends_with("nan") || word.ends_with("infinity")) {
    return "'" + text + "' is not a finite number";
  }
  return "expected a number, found " + describe_node(node);
}

}  // namespace

Scalar<bool> read_boolean(const YAML::Node& node) {
  const std::string text = node.Scalar();
  if (!is_quoted(node) && text == "true") return {true, ""};
  if (!is_quoted(node) && text == "false") return {false, ""};
  const std::string word = lower_case(text);
  std::string hint;
  if (word == "yes" || word == "on" || word == "y" || word == "true" || word == "1") {
    hint = "; write true";
  } else if (word == "no" || word == "off" || word == "n" || word == "false" || word == "0") {
    hint = "; write false";
  }
  return {std::nullopt, "expected a boolean, found " + describe_node(node) + hint};
}

Scalar<std::int64_t> read_integer(const YAML::Node& node) {
  std::string problem = number_problem(node);
  if (!problem.empty()) return {std::nullopt, problem};
  const std::string text = node.Scalar();
  if (!examine_number(text).plain_integer) {
    return {std::nullopt,
            "expected an integer, found '" + text + "'; write all its digits, as in 1000"};
  }
  std::int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc()) {
    return {std::nullopt, "'" + text + "' does not fit 64 bits"};
  }
  return {value, ""};
}

Scalar<double> read_number(const YAML::Node& node) {
  std::string problem = number_problem(node);
  if (!problem.empty()) return {std::nullopt, problem};
  const std::string text = node.Scalar();
  double value = 0.0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || !std::isfinite(value)) {
    return {std::nullopt, "'" + text + "' is beyond the range of a double"};
  }
  return {value, ""};
}

Scalar<std::string> read_choice(const YAML::Node& node, const std::vector<std::string>& choices) {
  const std::string text = node.Scalar();
  if (std::find(choices.begin(), choices.end(), text) != choices.end()) return {text, ""};
  const std::string nearest = nearest_word(lower_case(text), choices);
  return {std::nullopt, "found " + describe_node(node) +
                            (nearest.empty() ? "" : " (did you mean '" + nearest + "'?)")};
}

Scalar<std::string> read_path(const YAML::Node& node) {
  const std::string text = node.Scalar();
  if (text.empty()) return {std::nullopt, "the path is empty"};
  if (text.find('\0') != std::string::npos) {
    return {std::nullopt, "the path holds a zero byte"};
  }
  if (text == "~" || text.starts_with("~/")) {
    return {std::nullopt, "'" + text + "': ~ is not expanded here; write the whole path"};
  }
  return {text, ""};
}

}  // namespace lockstep::runtime
