#include "launcher/commands/train_command.h"

#include <filesystem>
#include <memory>
#include <system_error>

#include "comm/mpi/mpi_environment.h"
#include "core/error.h"
#include "launcher/mpi_launch.h"
#include "launcher/training_run.h"

namespace lockstep::launcher {
namespace {

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
  arguments.push_back("--resume=" + request.resume);
  return arguments;
}

// Relative paths mean nothing then, and mpirun does not start.
void require_working_directory() {
  std::error_code failure;
  const auto here = std::filesystem::current_path(failure);
  if (!failure && !here.empty()) return;
  throw core::Error(core::ErrorKind::kConfig, "the working directory is gone (" +
                                                  failure.message() + "); cd to one that exists");
}

int train(TrainOptions options) {
  require_working_directory();
  options.request.ranks_given = options.ranks > 0;
  const bool launched = comm::started_by_mpi_launcher();
  if (!launched && options.ranks == 0) comm::refuse_separate_tasks();
  if (options.ranks <= 1 || launched) return run_training(options.request);
  // Wrong configurations are told once, before any rank is started.
  const std::string output = check_training_request(options.request, options.ranks);
  return launch_ranks({options.ranks, rank_arguments(options.request), output});
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
