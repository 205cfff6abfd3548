#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep admin info|token|audit|backup|check|shutdown: looks after the coordinator.
void add_admin_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
