#include "launcher/commands/train_command.h"

#include <memory>

#include "comm/mpi/mpi_environment.h"
#include "core/error.h"
#include "launcher/exit_record.h"
#include "launcher/mpi_launch.h"
#include "launcher/training_run.h"

namespace lockstep::launcher {
namespace {

constexpr int kLostRank = static_cast<int>(core::ErrorKind::kCommunication);

struct TrainOptions {
  TrainRequest request;
  int ranks = 0;  // 0: not given
};

// The command line of each rank: the same, without --ranks.
std::vector<std::string> rank_arguments(const TrainRequest& request) {
  std::vector<std::string> arguments = {"train", request.config_file};
  for (const std::string& override_text : request.overrides) {
    arguments.push_back("--set");
    arguments.push_back(override_text);
  }
  arguments.insert(arguments.end(), {"--resume", request.resume});
  return arguments;
}

int train(TrainOptions options) {
  options.request.ranks_given = options.ranks > 0;
  if (options.ranks <= 1 || comm::started_by_mpi_launcher()) return run_training(options.request);
  // Wrong configurations are told once, before any rank is started.
  const std::string output = check_training_request(options.request, options.ranks);
  const int code = launch_ranks(options.ranks, rank_arguments(options.request));
  // mpirun tells the code of whichever rank it saw end first, be it the one that failed alone or
  // those that lost it.
  // A refused start (2) leaves the records of the attempt before.
  const bool started = code != 0 && code != static_cast<int>(core::ErrorKind::kConfig);
  return started && some_rank_lost_a_peer(output) ? kLostRank : code;
}

}  // namespace

void add_train_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("train", "train a model as a configuration says");
  auto options = std::make_shared<TrainOptions>();
  command->add_option("config", options->request.config_file, "YAML or JSON file")
      ->required()
      ->option_text("CONFIG");
  add_set_option(*command, options->request.overrides);
  command
      ->add_option("--resume", options->request.resume,
                   "never (refuse an output directory that holds a run), auto (its newest whole "
                   "checkpoint, or from the start), or a checkpoint directory")
      ->option_text("never|auto|PATH")
      ->capture_default_str();
  command->add_option("--ranks", options->ranks, "start this many ranks on this machine by mpirun")
      ->check(CLI::Range(1, 1 << 16).description(""))
      ->option_text("N");
  set_action(*command, context, [options] { return train(*options); });
}

}  // namespace lockstep::launcher
