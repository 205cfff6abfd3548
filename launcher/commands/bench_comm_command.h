#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep bench comm: bandwidth of every collective beside that of plain copies.
void add_bench_comm_command(CLI::App& bench, CommandContext& context);

}  // namespace lockstep::launcher
