#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/health/run_history.h"

namespace lockstep::runtime {

enum class Severity { kInfo, kWarning, kError };
const char* name_of(Severity severity);  // "info", ...

// A change to try.
struct Advice {
  std::string set;  // "optimizer.learning_rate=0.001", for `train --set`; empty: none in the
                    // configuration
  std::string why;
};

// Something that a run suffers from.
struct Finding {
  std::string kind;  // one of finding_kinds()
  Severity severity = Severity::kWarning;
  std::int64_t first_step = 0;  // that shows it
  std::int64_t last_step = 0;
  std::vector<std::string> layers;  // groups of parameters; empty: the whole run
  std::string evidence;             // with numbers
  std::vector<std::string> causes;  // the likely one first
  std::vector<Advice> advice;       // likewise
  std::string replay;               // a bundle of one of these steps; empty: there is none
};

// The kinds, in the order in which findings of one severity are told.
const std::vector<std::string>& finding_kinds();

// Everything that is wrong, worst first: a pure function of what the run has left behind.
std::vector<Finding> diagnose(const RunHistory& history);

// {"run":...,"steps":[first,last],"findings":[...]} (docs/operations.md).
std::string to_json(const RunHistory& history, const std::vector<Finding>& findings);
// For people.
std::string to_text(const RunHistory& history, const std::vector<Finding>& findings);

}  // namespace lockstep::runtime
