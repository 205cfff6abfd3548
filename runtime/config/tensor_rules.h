#pragma once

#include <string>
#include <vector>

#include "models/parameter_table.h"
#include "runtime/config/config.h"

namespace lockstep::runtime {

// What optimizer and optimizer.groups say about one tensor.
struct TensorRule {
  int group = -1;  // of optimizer.groups, the first whose pattern matches; -1: none does
  double learning_rate_scale = 1.0;  // of the group, times that of mup
  double weight_decay = 0.0;         // as applied to this tensor
  bool frozen = false;

  bool operator==(const TensorRule&) const = default;
};

// By ParameterId. Patterns are those of shells (fnmatch).
std::vector<TensorRule> tensor_rules(const OptimizerConfig& optimizer,
                                     const models::ParameterTable& table);

// The table of a run: its model's, with the frozen tensors marked.
models::ParameterTable parameter_table(const Config& config);

// One line a group, with counts of tensors and elements, and one for the rest; empty without
// groups: "block.0.*: frozen, 12 tensors, 789,760 elements".
std::vector<std::string> describe_groups(const Config& config);

// What is wrong with optimizer.groups for this model, a message each: a pattern that matches
// nothing, or nothing that an earlier one has left; or every tensor frozen.
std::vector<std::string> problems_of_groups(const OptimizerConfig& optimizer,
                                            const models::ParameterTable& table);

}  // namespace lockstep::runtime
