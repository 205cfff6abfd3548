#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// lockstep export --checkpoint PATH --output DIR: a trained model as what from_pretrained() of
// Hugging Face's Transformers loads.
void add_export_command(CLI::App& app, CommandContext& context);

}  // namespace lockstep::launcher
