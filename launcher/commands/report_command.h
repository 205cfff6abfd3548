#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

void add_report_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
