#pragma once

#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

namespace lockstep::coordinator {

struct CoordinatorCommand {
  std::filesystem::path config_file;   // empty: the defaults
  std::vector<std::string> addresses;  // instead of those of the file; empty: those of the file
  std::string failpoints;              // for tests; see model/failpoint.h
  bool check = false;                  // only say whether it could start
};

// Runs a coordinator until SIGTERM, SIGINT or AdminService.ShutdownServer: opens the store,
// goes on with what the last one left, serves. A line "listening on ADDRESS" for each address goes
// to `out` once calls are served. At the end calls are finished, and training goes on: the next
// coordinator finds it. SIGHUP reads the configuration again: what is wrong with the new one is in the
// log, and the old one holds. A socket that somebody removed is made again. Returns the exit code. Throws core::Error(kConfig): what is wrong with the
// configuration, the addresses or the store.
int run_coordinator(const CoordinatorCommand& command, std::ostream& out);

}  // namespace lockstep::coordinator
