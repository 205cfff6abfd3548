#pragma once

#include <map>
#include <string>
#include <vector>

#include "coordinator/attempts/attempt_host.h"

// What the supervisor executes, and in which environment. No shell is ever involved: every word of
// a command is one argument of execve, whatever it holds.
namespace lockstep::coordinator {

// Throws Error(kConfig) naming what cannot be launched: no ranks, an address that mpirun would read
// as more than a host, a path that is not absolute, a text with a NUL, a log quota too small.
void check_launchable(const LaunchSpec& spec);

// Whether an address of a host in the coordinator's configuration means the machine this runs on.
bool is_this_machine(const std::string& address);

using Environment = std::map<std::string, std::string>;

// Those of `parent` that a rank may have: a fixed list, nothing that begins with LD_, OMPI_ or
// PMIX_.
Environment allowed_environment(const char* const* parent);
// The environment of mpirun and the ranks: the allowed variables, those of the spec, the tag of the
// attempt, where its agent finds the coordinator, and how mpirun is to behave. session: comm::MpirunSession::path().
Environment rank_environment(const LaunchSpec& spec, Environment allowed,
                             const std::string& session);
std::vector<std::string> to_block(const Environment& environment);  // "NAME=VALUE"

// mpirun with a fixed set of options, then for every rank
//   SELF rank-start --directory DIR ... -- PROGRAM train CONFIG --resume RESUME
// self: the path of this program. environment: rank_environment(), which other hosts are told of.
std::vector<std::string> launch_command(const LaunchSpec& spec, const std::string& directory,
                                        const std::string& self, const Environment& environment);

// The value of rank-start's --devices: for each rank the devices that it may see,
// "0,1/0,1/4,5/4,5"; empty for CPU slots.
std::string visible_devices(const LaunchSpec& spec);

}  // namespace lockstep::coordinator
