#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep explain-step RUN N: what was decided in a step, and from what.
void add_explain_step_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
