#pragma once

#include <string>
#include <utility>
#include <vector>

namespace lockstep::runtime {

// What this binary is: for `lockstep version` and the `run` line of metrics.jsonl.
struct BuildInfo {
  std::string version;
  std::string commit;  // of git, "-dirty" behind it for a changed tree; "unknown" without git
  std::string compiler;
  std::string build_type;
  std::string flags;
  std::vector<std::string> instruction_sets;                   // the compiler could use
  std::vector<std::pair<std::string, std::string>> libraries;  // name, version
};

BuildInfo build_info();

}  // namespace lockstep::runtime
