#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep bench coordinates CONFIG --widths 64,128,256,512
void add_bench_coordinates_command(CLI::App& bench, CommandContext& context);

}  // namespace lockstep::launcher
