#pragma once

#include <optional>
#include <vector>

#include <yaml-cpp/yaml.h>

#include "runtime/config/config.h"
#include "runtime/config/problems.h"

namespace lockstep::runtime {

// The list under `optimizer.groups:`, each item a map {match, learning_rate_scale, weight_decay,
// freeze} with match and at least one other key. `where` is the place of the list. nullopt: no
// list; whatever is not legal, problems says why.
std::optional<std::vector<OptimizerGroup>> read_groups(const YAML::Node& list,
                                                       const Location& where, Problems& problems);

}  // namespace lockstep::runtime
