#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <yaml-cpp/yaml.h>

#include "runtime/config/problems.h"

namespace lockstep::runtime {

// A node with the place where it was written.
struct PlacedNode {
  YAML::Node node{};
  Location where{};
};

// One map of a YAML file with the keys that are legal in it. Everything that is wrong goes to
// `problems`, which must outlive it; a value that is not given or not right leaves its target as it
// was.
class StrictMap {
 public:
  // `path` is that of the map ("tls"; "" is the top level). A node that is nothing is an empty map.
  StrictMap(const PlacedNode& map, std::string path, const std::vector<std::string>& legal,
            Problems& problems);

  bool has(const std::string& name) const { return nodes_.contains(name); }
  // The value of a key, else the map itself with its place.
  PlacedNode at(const std::string& name) const;
  std::string path_of(const std::string& name) const;

  void read(const std::string& name, std::int32_t& target, std::int32_t low, std::int32_t high);
  void read(const std::string& name, std::int64_t& target, std::int64_t low, std::int64_t high);
  void read(const std::string& name, double& target, double low, double high);
  void read(const std::string& name, bool& target);
  // In seconds, may have a fraction; target in nanoseconds.
  void read_seconds(const std::string& name, std::int64_t& target_ns);
  void read(const std::string& name, std::string& target);
  void read_choice(const std::string& name, std::string& target,
                   const std::vector<std::string>& choices);
  void read(const std::string& name, std::filesystem::path& target);  // made absolute
  // The elements of a list; a single value is a list of one.
  std::vector<PlacedNode> list(const std::string& name) const;

  void problem(const std::string& name, const std::string& message);

 private:
  void take(const YAML::Node& key, const YAML::Node& value, const std::vector<std::string>& legal);
  bool scalar(const std::string& name, const std::string& expected);

  PlacedNode self_;
  std::string path_;
  Problems& problems_;
  std::map<std::string, PlacedNode> nodes_;
};

// The one document of a YAML text, with its place. Error(kConfig) for text that is not YAML, or
// holds several documents.
PlacedNode parse_yaml(std::string_view text, const std::string& source);

// The place of a node in a file; where it has none, the fallback's.
Location place_of(const YAML::Node& node, const Location& fallback);

}  // namespace lockstep::runtime
