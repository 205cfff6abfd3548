#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep cancel RUN...: ends runs.
void add_cancel_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
