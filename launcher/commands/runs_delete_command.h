#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// `lockstep runs delete` and `lockstep runs archive`.
void add_runs_delete_commands(CLI::App& runs, CommandContext& context);

}  // namespace lockstep::launcher
