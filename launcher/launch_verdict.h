#pragma once

#include <string>
#include <vector>

#include "coordinator/attempts/exit_classification.h"

namespace lockstep::launcher {

// What `train --ranks` has seen of a launch when mpirun has ended.
struct LaunchFacts {
  int ranks = 1;
  int arrived = 0;                                   // ranks that said that they are there
  int mpirun_status = 0;                             // as waitpid gave it
  int stop_signal = 0;                               // the first that asked for a stop; 0: none
  bool at_once = false;                              // a second one ended the ranks
  bool spoke = false;                                // something came on stderr
  std::vector<coordinator::ExitRecordFile> records;  // that its ranks left, by rank
};

struct LaunchVerdict {
  int code = 0;
  std::string message;  // what happened, in a line; empty: done, or the ranks have said it
};

// Pure. A rank that lost another one explains more than the one that was lost (5), a rank's record
// more than mpirun's status, which is of whichever rank it saw end first.
LaunchVerdict judge(const LaunchFacts& facts);

}  // namespace lockstep::launcher
