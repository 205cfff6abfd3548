#include "runtime/config/dump_config.h"

#include <string_view>

#include "core/hash.h"
#include "runtime/config/rules.h"
#include "runtime/config/schema.h"

namespace lockstep::runtime {
namespace {

// Whether the key belongs into the stored file: not if it is unused or without effect, where the
// value in Config is one that a file need not, or cannot, say.
bool is_stored(const Key& key, const Config& config) {
  if (!has_effect(key.path, config)) return false;
  if (key.path == "data.validation") return !config.data.validation.empty();
  return key.default_kind != DefaultKind::kUnset ||
         format_value(key.get(config)) != format_value(key.get(Config{}));
}

// Value as stored; "" for a key that is not.
std::string stored_text(const Key& key, const Config& config) {
  return is_stored(key, config) ? format_value(key.get(config)) : std::string();
}

std::size_t depth_of(std::string_view section) {
  std::size_t depth = section.empty() ? 0 : 1;
  for (const char c : section)
    depth += c == '.' ? 1 : 0;
  return depth;
}

// Opens `section` below the section that was open, e.g. "  loss_scale:\n".
std::string section_heading(const std::string& section) {
  const std::size_t dot = section.rfind('.');
  const std::string name = dot == std::string::npos ? section : section.substr(dot + 1);
  return std::string(2 * (depth_of(section) - 1), ' ') + name + ":\n";
}

}  // namespace

std::string to_yaml(const Config& config) {
  std::string text = "# Lockstep configuration, version 1\n";
  std::string open;
  for (const Key& key : schema_keys()) {
    if (!is_stored(key, config)) continue;
    const std::string section = key.section();
    if (section != open && !section.empty()) text += section_heading(section);
    open = section;
    text += std::string(2 * depth_of(section), ' ') + key.name() + ": " +
            format_value(key.get(config)) + "\n";
  }
  return text;
}

std::uint64_t fingerprint(const Config& config) {
  std::string canonical;
  for (const Key& key : schema_keys()) {
    if (key.in_fingerprint && is_stored(key, config)) {
      canonical += key.path + "=" + format_value(key.get(config)) + "\n";
    }
  }
  return core::hash64(canonical);
}

std::vector<ConfigDifference> diff_configs(const Config& before, const Config& after) {
  std::vector<ConfigDifference> differences;
  for (const Key& key : schema_keys()) {
    std::string old_text = stored_text(key, before);
    std::string new_text = stored_text(key, after);
    if (old_text != new_text) {
      differences.push_back(
          {key.path, std::move(old_text), std::move(new_text), key.in_fingerprint});
    }
  }
  return differences;
}

}  // namespace lockstep::runtime
