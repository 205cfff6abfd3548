#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep sample --checkpoint PATH --prompt TEXT: the prompt and what the model makes of it, as it
// comes, on stdout.
void add_sample_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
