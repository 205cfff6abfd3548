#include "launcher/commands/coordinator_command.h"

#include <memory>

#include "coordinator/server/coordinator_process.h"
#include "core/signals.h"

namespace lockstep::launcher {

void add_coordinator_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "coordinator", "serve job control: queue, start, watch, pause and recover runs");
  auto options = std::make_shared<coordinator::CoordinatorCommand>();
  command
      ->add_option("--config", options->config_file,
                   "coordinator.yaml; without it a private socket and this machine's cores")
      ->option_text("FILE");
  command
      ->add_option(
          "--address", options->addresses,
          "listen here instead of where the file says: unix:PATH or HOST:PORT (repeatable)")
      ->allow_extra_args(false)
      ->option_text("ADDRESS");
  command->add_flag("--check", options->check,
                    "read the configuration, say what would be served and end");
  // Makes the coordinator fail at chosen places; for its own tests, so --help does not show it.
  command->add_option("--failpoints", options->failpoints)->group("");
  const auto run = [options, &context] {
    core::release_signals();  // the service waits for those that end it
    return run_coordinator(*options, context.out);
  };
  set_action(*command, context, run);
}

}  // namespace lockstep::launcher
