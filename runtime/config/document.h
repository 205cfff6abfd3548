#pragma once

#include <map>
#include <string>
#include <string_view>

#include <yaml-cpp/yaml.h>

#include "runtime/config/problems.h"
#include "runtime/config/schema.h"

// From YAML text to keys of the schema with their nodes and places; no value is looked at here.
namespace lockstep::runtime {

// The one document in a YAML text; Null when there is nothing in it. Throws Error(kConfig) with the
// place: text that is not YAML, or more than one document.
YAML::Node read_one_document(std::string_view text, const std::string& source);

// One key as it was written. `where` is the place of the value, `key_where` that of the key.
struct Entry {
  const Key* key = nullptr;
  YAML::Node node{};
  Location key_where{};
  Location where{};
};

// The keys of one file and its overrides.
class Document {
 public:
  // Unknown and duplicate keys and sections that are not maps become problems; text that is not one
  // YAML map is Error(kConfig) at once.
  Document(std::string_view text, const std::string& source, Problems& problems);

  // "path.to.key=value". The value is YAML; a section takes a map; null removes what was written.
  void apply_override(const std::string& assignment, Problems& problems);

  const Entry* find(const std::string& path) const;  // nullptr: not given
  bool given(const std::string& path) const { return find(path) != nullptr; }

  // The place to name when a problem concerns a key that may not have been written: its value, else
  // its section, else the file.
  Location where(const std::string& path) const;

  const std::map<std::string, Entry>& entries() const { return entries_; }

 private:
  void read_map(const YAML::Node& map, const std::string& section, Problems& problems);
  void read_pair(const YAML::Node& name, const YAML::Node& value, const std::string& path,
                 Problems& problems);
  void remove(const std::string& path);
  Location location_of(const YAML::Node& node, const Location& fallback) const;

  std::string source_;
  std::string override_;  // the assignment being applied: places name it instead of the file
  std::map<std::string, Entry> entries_;
  std::map<std::string, Location> sections_;
};

// "a map", "a list", "nothing", "the text 'x'": what a node holds, for messages.
std::string describe_node(const YAML::Node& node);

}  // namespace lockstep::runtime
