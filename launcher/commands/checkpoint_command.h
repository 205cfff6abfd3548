#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep checkpoint RUN: asks for a checkpoint at the next step.
void add_checkpoint_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
