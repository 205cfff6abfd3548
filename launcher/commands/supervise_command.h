#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// `lockstep supervise` and `lockstep rank-start`: what the coordinator and mpirun start, never
// people; hence not in the help.
void add_supervise_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
