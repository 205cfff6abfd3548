#pragma once

#include <string>
#include <vector>

namespace lockstep::launcher {

// What `train --ranks` starts.
struct RankLaunch {
  int ranks = 1;
  std::vector<std::string> arguments{};  // of this program, for each rank
  std::string output{};  // OUTPUT: where the ranks leave how they ended; empty: none
  bool listen = true;    // the ranks stop on request; else the first one ends them
};

// Runs the ranks under mpirun and waits. Returns the exit code: that of the ranks' exit records, 5
// when a rank or mpirun was lost. Whatever other than success it is, one line on stderr says why.
//
// A stop signal (launcher/stop_request.h) becomes a request to all ranks, kept for those that have
// not started yet: mpirun never sees it. A second one ends the ranks at once. The ranks end with
// this process, however it ends.
//
// Throws Error(kConfig) if mpirun cannot be started or cannot start the ranks, Error(kCommunication)
// if it stands still.
int launch_ranks(const RankLaunch& launch);

}  // namespace lockstep::launcher
