#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::coordinator {

// A program to be started without a shell: every argument reaches it as it is.
struct StartedProcess {
  std::vector<std::string> arguments;    // the program first; looked up in PATH of the environment
  std::vector<std::string> environment;  // "NAME=VALUE"; all of it
  int out = -1;                          // become its standard output and error; -1: /dev/null
  int err = -1;
  std::vector<int> keeps;         // descriptors that it has besides, under the same numbers
  bool new_session = false;       // setsid
  int signal_at_parents_end = 0;  // PR_SET_PDEATHSIG; 0: none
  std::vector<int> held_signals;  // that it never gets, unless it asks for them
};

// Every other signal has its default effect in it, and no other descriptor is open. Throws
// Error(kInternal) if there can be no process; a program that is not there ends with 127 and says
// so on its standard error.
pid_t start_process(const StartedProcess& process);

}  // namespace lockstep::coordinator
