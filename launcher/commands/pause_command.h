#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep pause RUN...: saves, stops and frees the slots.
void add_pause_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
