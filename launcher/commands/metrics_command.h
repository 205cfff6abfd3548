#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep metrics RUN: lines of its metrics.jsonl.
void add_metrics_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
