#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep bench ops: every operation of a model beside the ceilings of the device.
void add_bench_ops_command(CLI::App& bench, CommandContext& context);

}  // namespace lockstep::launcher
