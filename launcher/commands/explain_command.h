#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep explain RUN: why it waits, or why it ended.
void add_explain_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
