#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep wait RUN: ends with the run's verdict, or once it is as far as --for says.
void add_wait_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
