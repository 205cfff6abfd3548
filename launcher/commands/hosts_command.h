#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep hosts list|drain|undrain.
void add_hosts_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
