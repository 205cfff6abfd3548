#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

void add_watch_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
