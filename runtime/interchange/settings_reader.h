#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "runtime/config/value.h"
#include "runtime/interchange/foreign_settings.h"

// Inside of foreign_settings: a JSON object, field by field, and what has been made of it.
namespace lockstep::runtime {

class SettingsReader {
 public:
  SettingsReader(const std::string& text, const std::string& origin, SettingsBase base);

  // Value of "fp16.enabled"; null where there is none. Fields asked for count as used.
  nlohmann::json take(const std::string& path);
  bool given(const std::string& path) const { return find(path) != nullptr; }
  // Left to the base.
  bool is_auto(const std::string& path) const {
    const nlohmann::json* found = find(path);
    return found != nullptr && *found == "auto";
  }
  // A number, also one that is written as text; nothing where absent, null or "auto".
  std::optional<double> number(const std::string& path);
  std::optional<std::int64_t> whole(const std::string& path);
  bool flag(const std::string& path, bool otherwise);
  std::string word(const std::string& path, const std::string& otherwise);

  void set(const std::string& key, const std::string& yaml) { result_.keys[key] = yaml; }
  void set(const std::string& key, double value) { set(key, format_number(value)); }
  // Not mapped, or with another meaning.
  void leave(const std::string& path, const std::string& why);
  // Changes numbers and cannot be said here.
  void refuse(const std::string& path, const std::string& why);

  // Lists every field that nobody asked for, then ends: throws what was refused.
  ForeignSettings finish();

 private:
  const nlohmann::json* find(const std::string& path) const;
  bool left_to_base(const std::string& path, const nlohmann::json& value);
  void list_unused(const nlohmann::json& object, const std::string& prefix);

  std::string origin_;
  SettingsBase base_;
  nlohmann::json root_;
  std::set<std::string> used_;
  std::vector<std::string> problems_;
  ForeignSettings result_;
};

}  // namespace lockstep::runtime
