#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// `lockstep config check FILE` and `lockstep config defaults`.
void add_config_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
