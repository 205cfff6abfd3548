#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep doctor RUN: what a run suffers from, and what to try.
void add_doctor_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
