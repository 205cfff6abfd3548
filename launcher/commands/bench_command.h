#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep bench comm: bandwidth of every collective beside that of plain copies, one JSON line
// each.
void add_bench_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
