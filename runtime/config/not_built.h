#pragma once

#include <string>
#include <vector>

#include "runtime/config/problems.h"
#include "runtime/config/value.h"

namespace lockstep::runtime {

// A key of the contract some of whose values need a part that is not in this build. Building the
// part removes the row (or lengthens `built`) and, for an off value, restores the default in
// config.h.
struct NotBuilt {
  std::string path;                // "fault.kind" stands for the kinds in the list `fault`
  std::vector<std::string> built;  // values as format_value writes them; empty: none may be given
  std::string part;                // what is missing
};

const std::vector<NotBuilt>& not_built_table();

// Adds a problem if the value needs a part that is not built.
void check_built(const std::string& path, const Value& value, const Location& where,
                 Problems& problems);

}  // namespace lockstep::runtime
