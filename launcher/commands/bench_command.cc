#include "launcher/commands/bench_command.h"

#include "launcher/commands/bench_comm_command.h"
#include "launcher/commands/bench_coordinates_command.h"
#include "launcher/commands/bench_ops_command.h"
#include "launcher/commands/bench_step_command.h"

namespace lockstep::launcher {

void add_bench_command(CLI::App& app, CommandContext& context) {
  CLI::App* bench = app.add_subcommand("bench", "measure this machine");
  bench->require_subcommand(1);
  add_bench_comm_command(*bench, context);
  add_bench_coordinates_command(*bench, context);
  add_bench_ops_command(*bench, context);
  add_bench_step_command(*bench, context);
}

}  // namespace lockstep::launcher
