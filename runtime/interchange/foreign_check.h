#pragma once

#include <string>
#include <vector>

#include "runtime/config/config.h"
#include "runtime/interchange/foreign_model.h"

namespace lockstep::runtime {

// A key below `model.` that says something else than a config.json.
struct ForeignDifference {
  std::string key;     // "model.norm_eps"
  std::string ours;    // as in YAML
  std::string theirs;  // likewise
  std::string origin;  // the field of config.json it follows from; empty: of every such model
};

// Every key that changes what the model computes and differs. Free are: how it was initialised,
// dropout, the task (its head may be new), the context of a model without a table of positions;
// with model.init_resize vocabulary and context too. Windows as long as the context count as none.
std::vector<ForeignDifference> find_differences(const ForeignModel& foreign, const Config& config);

// Throws Error(kConfig) unless there is no difference: lists both values of each, and the --set
// that mends it. `origin` (the config.json) begins the message.
void require_same_model(const ForeignModel& foreign, const Config& config,
                        const std::string& origin);

// What is worth a line although it is allowed: dropout, and the notes of the model.
std::vector<std::string> allowed_differences(const ForeignModel& foreign, const Config& config);

}  // namespace lockstep::runtime
