#include "launcher/commands/supervise_command.h"

#include <filesystem>
#include <memory>

#include "coordinator/attempts/rank_start.h"
#include "coordinator/attempts/supervisor.h"
#include "core/signals.h"

namespace lockstep::launcher {
namespace {

struct SuperviseOptions {
  std::string directory;
  int lock = -1;
};

int supervise(const SuperviseOptions& options) {
  core::release_signals();  // it takes those that it knows in its loop
  const auto lock = coordinator::take_supervisor_lock(options.directory, options.lock);
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  coordinator::Supervisor(options.directory, self).run();
  return 0;
}

void add_supervise(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("supervise", "look after one attempt of a run");
  command->group("");
  auto options = std::make_shared<SuperviseOptions>();
  command->add_option("directory", options->directory, "of the attempt")->required();
  command->add_option("--lock", options->lock, "descriptor of its lock, held by who started this");
  set_action(*command, context, [options] { return supervise(*options); });
}

void add_rank_start(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("rank-start", "become a rank of an attempt");
  command->group("");
  auto start = std::make_shared<coordinator::RankStart>();
  command->add_option("--directory", start->directory, "of the attempt")->required();
  command->add_option("--boot-id", start->boot_id, "of the supervisor's machine")->required();
  command->add_option("--devices", start->devices, "of each rank");
  command->add_option("program", start->program, "and its arguments")->required();
  set_action(*command, context, [start]() -> int { coordinator::start_rank(*start); });
}

}  // namespace

void add_supervise_command(CLI::App& app, CommandContext& context) {
  add_supervise(app, context);
  add_rank_start(app, context);
}

}  // namespace lockstep::launcher
