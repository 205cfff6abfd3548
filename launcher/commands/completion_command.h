#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep completion bash|zsh|fish: a script that completes this command line.
void add_completion_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
