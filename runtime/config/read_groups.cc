#include "runtime/config/read_groups.h"

#include <string>

#include "runtime/config/document.h"
#include "runtime/config/strict_map.h"

namespace lockstep::runtime {
namespace {

constexpr double kMost = 1e6;

OptimizerGroup read_group(const PlacedNode& item, const std::string& path, Problems& problems) {
  StrictMap map(item, path, {"match", "learning_rate_scale", "weight_decay", "freeze"}, problems);
  OptimizerGroup group;
  map.read("match", group.match);
  map.read("learning_rate_scale", group.learning_rate_scale, 0.0, kMost);
  map.read("weight_decay", group.weight_decay, 0.0, kMost);
  map.read("freeze", group.freeze);
  const bool changes =
      map.has("learning_rate_scale") || map.has("weight_decay") || map.has("freeze");
  if (!map.has("match")) map.problem("match", "is required: a pattern of tensor names");
  if (!changes)
    map.problem("", "changes nothing: give learning_rate_scale, weight_decay or freeze");
  if (map.has("learning_rate_scale") && group.learning_rate_scale == 0.0)
    map.problem("learning_rate_scale",
                "0 would keep state for what never changes; use freeze: true");
  if (group.freeze && (map.has("learning_rate_scale") || map.has("weight_decay")))
    map.problem("freeze",
                "learning_rate_scale and weight_decay would have no effect on frozen "
                "tensors; take them out");
  return group;
}

}  // namespace

std::optional<std::vector<OptimizerGroup>> read_groups(const YAML::Node& list,
                                                       const Location& where, Problems& problems) {
  if (!list.IsSequence()) {
    problems.add(where, "optimizer.groups",
                 "expected a list of {match, learning_rate_scale, weight_decay, freeze}, found " +
                     describe_node(list));
    return std::nullopt;
  }
  std::vector<OptimizerGroup> groups;
  for (const YAML::Node& item : list) {
    const std::string path = "optimizer.groups[" + std::to_string(groups.size()) + "]";
    groups.push_back(read_group({item, place_of(item, where)}, path, problems));
  }
  return groups;
}

}  // namespace lockstep::runtime
