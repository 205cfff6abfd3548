#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep bench step: training steps of a configuration.
void add_bench_step_command(CLI::App& bench, CommandContext& context);

}  // namespace lockstep::launcher
