#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep runs list|show|update|events|checkpoints.
void add_runs_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
