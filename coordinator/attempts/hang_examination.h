#pragma once

#include <string>
#include <utility>
#include <vector>

#include "coordinator/attempts/attempt_host.h"

namespace lockstep::coordinator {

struct HangFinding {
  std::vector<std::string> stuck;  // sentences: who waits for whom, who is stopped
  int rank = -1;                   // that the others wait for; -1: nobody knows
};

// Looks at the ranks of a run that does not get on, and changes nothing: the flight recorders in
// OUTPUT/flight, and the state of each process (rank, pid), whose kernel side is written to
// DIRECTORY/stacks.txt. Throws nothing.
HangFinding examine_hang(const std::string& directory, const std::string& output,
                         const std::vector<std::pair<int, std::int64_t>>& processes);

}  // namespace lockstep::coordinator
