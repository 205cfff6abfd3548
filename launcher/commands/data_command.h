#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// `lockstep data prepare --input PATH... --output DIR` and `lockstep data info PATH...`.
void add_data_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
