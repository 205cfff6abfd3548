#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep resume RUN...: queues paused runs again.
void add_resume_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
