#pragma once

#include <string>
#include <vector>

namespace lockstep::coordinator {

// `lockstep rank-start`: what mpirun starts for every rank. It tells the supervisor of its machine
// which process the rank is, gets the pipes to its logs, and becomes the program: no process stands
// between mpirun and the rank.
struct RankStart {
  std::string directory;  // of the attempt
  std::string boot_id;  // of the supervisor's machine; elsewhere a rank keeps the streams of mpirun
  std::string devices;  // launch_command.h, visible_devices
  std::vector<std::string> program;  // and its arguments; not empty
};

// Does not return but by throwing Error(kInternal).
[[noreturn]] void start_rank(const RankStart& start);

}  // namespace lockstep::coordinator
