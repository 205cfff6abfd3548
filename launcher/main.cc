#include <iostream>

#include "launcher/command_line.h"
#include "launcher/commands/audit_command.h"
#include "launcher/commands/bench_command.h"
#include "launcher/commands/config_command.h"
#include "launcher/commands/data_command.h"
#include "launcher/commands/flight_command.h"
#include "launcher/commands/plan_command.h"
#include "launcher/commands/sample_command.h"
#include "launcher/commands/train_command.h"
#include "launcher/commands/version_command.h"

int main(int argc, char** argv) {
  using namespace lockstep::launcher;
  CommandLine command_line(argc, argv, std::cout, std::cerr);
  CLI::App& app = command_line.app();
  CommandContext& context = command_line.context();
  add_audit_command(app, context);
  add_bench_command(app, context);
  add_config_command(app, context);
  add_data_command(app, context);
  add_flight_command(app, context);
  add_plan_command(app, context);
  add_sample_command(app, context);
  add_train_command(app, context);
  add_version_command(app, context);
  return command_line.run();
}
