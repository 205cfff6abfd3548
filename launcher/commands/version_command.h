#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// `lockstep version`: what this binary is and what it was built with.
void add_version_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
