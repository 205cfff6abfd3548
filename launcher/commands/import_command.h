#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep import DIR --output CONFIG: a configuration that trains on from a model of Hugging
// Face's Transformers.
void add_import_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
