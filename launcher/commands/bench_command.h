#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep bench comm|ops|step: what this machine does.
void add_bench_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
