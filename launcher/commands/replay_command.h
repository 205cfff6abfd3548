#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep replay BUNDLE
void add_replay_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
