#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep logs RUN: what its ranks wrote; with -f until it has ended, with its verdict as exit
// code.
void add_logs_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
