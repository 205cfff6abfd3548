#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep retry RUN: a new run that goes on where an ended one was.
void add_retry_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
