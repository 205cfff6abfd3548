#include "runtime/config/value.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <string_view>

namespace lockstep::runtime {
namespace {

// Plain YAML text that cannot be taken for a number, a boolean, null or punctuation.
bool is_plain(std::string_view text) {
  if (text.empty()) return false;
  const auto safe = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '/' || c == '.' || c == '-';
  };
  const char first = text.front();
  const bool starts_like_text = (first >= 'a' && first <= 'z') || (first >= 'A' && first <= 'Z') ||
                                (first == '/' && text.size() > 1);
  return starts_like_text && std::all_of(text.begin(), text.end(), safe) && text != "true" &&
         text != "false" && text != "null" && text != "Null" && text != "NULL";
}

std::string quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\x%02x", byte);
      quoted += escape.data();
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

std::string format_text(const std::string& text) {
  return is_plain(text) ? text : quote(text);
}

std::string format_fault(const FaultConfig& fault) {
  return std::string("{kind: ") + word_of(fault.kind) + ", step: " + std::to_string(fault.step) +
         ", rank: " + std::to_string(fault.rank) + ", layer: " + std::to_string(fault.layer) + "}";
}

std::string format_group(const OptimizerGroup& group) {
  const std::string text = "{match: " + format_text(group.match);
  if (group.freeze) return text + ", freeze: true}";
  return text + ", learning_rate_scale: " + format_number(group.learning_rate_scale) +
         (group.weight_decay < 0.0 ? "" : ", weight_decay: " + format_number(group.weight_decay)) +
         "}";
}

template <typename Items, typename Format>
std::string format_list(const Items& items, Format format) {
  std::string text = "[";
  for (const auto& item : items) {
    if (text.size() > 1) text += ", ";
    text += format(item);
  }
  return text + "]";
}

struct Formatter {
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(std::int64_t value) const { return std::to_string(value); }
  std::string operator()(double value) const { return format_number(value); }
  std::string operator()(const std::string& value) const { return format_text(value); }
  std::string operator()(const std::vector<std::string>& value) const {
    return format_list(value, format_text);
  }
  // One number stands for a list of one, as in files.
  std::string operator()(const std::vector<std::int64_t>& value) const {
    const auto format = [](std::int64_t item) { return std::to_string(item); };
    return value.size() == 1 ? format(value.front()) : format_list(value, format);
  }
  std::string operator()(const std::array<double, 2>& value) const {
    return format_list(value, format_number);
  }
  std::string operator()(const std::vector<FaultConfig>& value) const {
    return format_list(value, format_fault);
  }
  std::string operator()(const std::vector<OptimizerGroup>& value) const {
    return format_list(value, format_group);
  }
};

}  // namespace

std::string format_number(double value) {
  std::array<char, 40> buffer{};
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  std::string text(buffer.data(), result.ptr);
  // to_chars writes 1e-08; people write 1e-8.
  const std::size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.size() > exponent + 3 && text[exponent + 2] == '0') {
    text.erase(exponent + 2, 1);
  }
  return text;
}

std::string format_value(const Value& value) {
  return std::visit(Formatter{}, value);
}

const std::vector<std::string>& fault_words() {
  static const std::vector<std::string> words = {"overflow", "nan",  "bitflip", "hang",
                                                 "kill",     "slow", "oom",     "throw"};
  return words;
}

const char* word_of(FaultKind kind) {
  return fault_words()[static_cast<std::size_t>(kind)].c_str();
}

}  // namespace lockstep::runtime
