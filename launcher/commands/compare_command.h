#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

void add_compare_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
