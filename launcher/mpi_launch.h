#pragma once

#include <string>
#include <vector>

namespace lockstep::launcher {

// The mpirun command line for `ranks` ranks of this program on this machine, each run with
// `arguments`. Ranks share cores when there are more of them than cores, and root is allowed, as
// containers need.
std::vector<std::string> mpirun_command(int ranks, const std::string& program,
                                        const std::vector<std::string>& arguments);

// Runs it and waits. Returns the exit code of the first rank that failed; 5 when a rank or mpirun
// was ended by a signal. A first SIGTERM or SIGINT asks all ranks to stop at the next step boundary
// (as SIGUSR1), a second one ends them at once; mpirun is ended if this process is killed. Throws
// Error(kConfig) if mpirun cannot be started.
int launch_ranks(int ranks, const std::vector<std::string>& arguments);

}  // namespace lockstep::launcher
