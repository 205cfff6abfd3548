#pragma once

#include "launcher/command_context.h"

namespace lockstep::launcher {

// `lockstep data train-tokenizer`, `data encode`, `data decode`.
void add_tokenizer_commands(CLI::App& data, CommandContext& context);

}  // namespace lockstep::launcher
