#include "runtime/interchange/settings_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>

#include "core/error.h"
#include "runtime/config/dump_config.h"
#include "runtime/config/load_config.h"
#include "runtime/interchange/foreign_fields.h"

namespace lockstep::runtime {

using nlohmann::json;

SettingsReader::SettingsReader(const std::string& text, const std::string& origin,
                               SettingsBase base)
    : origin_(origin), base_(base), root_(json::parse(text, nullptr, false)) {
  if (!root_.is_object())
    throw core::Error(
        core::ErrorKind::kData,
        origin_ + ": expected a JSON object (without comments), found something else");
}

const json* SettingsReader::find(const std::string& path) const {
  const json* at = &root_;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    if (!at->is_object()) return nullptr;
    const auto found = at->find(path.substr(begin, end - begin));
    if (found == at->end()) return nullptr;
    at = &*found;
    begin = end + 1;
  }
  return at;
}

json SettingsReader::take(const std::string& path) {
  used_.insert(path);
  const json* found = find(path);
  return found == nullptr ? json() : *found;
}

bool SettingsReader::left_to_base(const std::string& path, const json& value) {
  if (value != "auto") return false;
  if (base_ == SettingsBase::kNone)
    refuse(path,
           "\"auto\" is filled in by another program; give the value, or --base with a "
           "configuration that has it");
  return true;
}

std::optional<double> SettingsReader::number(const std::string& path) {
  const json value = take(path);
  if (value.is_null() || left_to_base(path, value)) return std::nullopt;
  if (value.is_number()) return value.get<double>();
  double parsed = 0.0;
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    const auto end = std::from_chars(text.data(), text.data() + text.size(), parsed);
    if (end.ec == std::errc() && end.ptr == text.data() + text.size()) return parsed;
  }
  refuse(path, "expected a number");
  return std::nullopt;
}

std::optional<std::int64_t> SettingsReader::whole(const std::string& path) {
  const std::optional<double> value = number(path);
  if (value && (std::floor(*value) != *value || std::abs(*value) > 1e15)) {
    refuse(path, "expected a whole number");
    return std::nullopt;
  }
  return value ? std::optional(static_cast<std::int64_t>(*value)) : std::nullopt;
}

bool SettingsReader::flag(const std::string& path, bool otherwise) {
  const json value = take(path);
  if (value.is_null() || left_to_base(path, value)) return otherwise;
  if (value.is_boolean()) return value.get<bool>();
  refuse(path, "expected true or false");
  return otherwise;
}

std::string SettingsReader::word(const std::string& path, const std::string& otherwise) {
  const json value = take(path);
  if (value.is_null() || left_to_base(path, value)) return otherwise;
  if (value.is_string()) return value.get<std::string>();
  refuse(path, "expected text");
  return otherwise;
}

void SettingsReader::leave(const std::string& path, const std::string& why) {
  used_.insert(path);
  result_.left.push_back(fmt::format("{}: {}", path, why));
}

void SettingsReader::refuse(const std::string& path, const std::string& why) {
  used_.insert(path);
  const json* found = find(path);
  problems_.push_back(
      fmt::format("{}{}: {}", path, found == nullptr ? "" : " " + json_excerpt(*found), why));
}

void SettingsReader::list_unused(const json& object, const std::string& prefix) {
  for (const auto& [name, value] : object.items()) {
    const std::string path = prefix + name;
    if (used_.contains(path)) continue;
    if (value.is_object() && !value.empty()) {
      list_unused(value, path + ".");
    } else if (!value.is_null() && value != false) {
      result_.left.push_back(path + " " + json_excerpt(value) + ": no key here");
    }
  }
}

ForeignSettings SettingsReader::finish() {
  if (!problems_.empty())
    throw core::Error(core::ErrorKind::kConfig, fmt::format("{}: cannot be expressed here:\n  {}",
                                                            origin_, fmt::join(problems_, "\n  ")));
  list_unused(root_, "");
  return std::move(result_);
}

std::string settings_as_yaml(const ForeignSettings& settings, const std::string& base) {
  if (!base.empty()) {
    std::vector<std::string> overrides;
    for (const auto& [key, value] : settings.keys)
      overrides.push_back(key + "=" + value);
    return to_yaml(load_config(base, overrides));
  }
  std::string text;
  std::string open;
  for (const auto& [key, value] : settings.keys) {
    const std::size_t dot = key.rfind('.');
    const std::string section = key.substr(0, dot);
    if (section != open) {
      const std::size_t outer = section.find('.');
      const std::string first = section.substr(0, outer);
      if (open.substr(0, open.find('.')) != first) text += first + ":\n";
      if (outer != std::string::npos) text += "  " + section.substr(outer + 1) + ":\n";
      open = section;
    }
    text += std::string(section.find('.') == std::string::npos ? 2 : 4, ' ') + key.substr(dot + 1) +
            ": " + value + "\n";
  }
  return text;
}

}  // namespace lockstep::runtime
