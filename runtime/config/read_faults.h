#pragma once

#include <optional>
#include <vector>

#include <yaml-cpp/yaml.h>

#include "runtime/config/config.h"
#include "runtime/config/problems.h"

namespace lockstep::runtime {

// The list under `fault:`, each item a map {kind, step, rank, layer}; kind and step are required,
// rank and layer are 0 unless given. `where` is the place of the list. nullopt: not legal, and
// problems says why.
std::optional<std::vector<FaultConfig>> read_faults(const YAML::Node& list, const Location& where,
                                                    Problems& problems);

}  // namespace lockstep::runtime
