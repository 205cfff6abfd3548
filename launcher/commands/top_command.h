#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// `lockstep top`: the queue and the hosts, live.
void add_top_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
