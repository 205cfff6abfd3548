#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep submit CONFIG: hands a run to the coordinator, as it is written here, with its paths
// absolute.
void add_submit_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
