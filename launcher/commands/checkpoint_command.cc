#include "launcher/commands/checkpoint_command.h"

#include <fmt/format.h>

#include <memory>
#include <ostream>

#include "coordinator/client/text.h"
#include "launcher/commands/job_command.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;
using job::JobExit;

namespace {

struct CheckpointOptions : JobOptions {
  std::string run{};
  bool wait = false;
};

JobExit checkpoint(const CheckpointOptions& options, job::Client& client, CommandContext& context) {
  v1::CheckpointRunRequest request;
  request.set_name(options.run);
  request.set_wait(options.wait);
  const v1::CheckpointRunResponse answer = client.checkpoint_run(request);
  if (options.format == JobFormat::kJson) {
    context.out << job::to_json(answer) << std::endl;
  } else if (!answer.has_checkpoint()) {
    print_run(context, options.format, answer.run());
  } else if (options.format == JobFormat::kName) {
    context.out << answer.checkpoint().name() << std::endl;
  } else {
    context.out << fmt::format("step {}: {}", answer.checkpoint().step(),
                               job::escape_for_terminal(answer.checkpoint().path()))
                << std::endl;
  }
  return JobExit::kOk;
}

}  // namespace

void add_checkpoint_command(CLI::App& app, CommandContext& context) {
  CLI::App* command =
      app.add_subcommand("checkpoint", "ask a run for a checkpoint at its next step");
  auto options = std::make_shared<CheckpointOptions>();
  add_run_argument(*command, options->run);
  command->add_flag("--wait", options->wait, "until it is whole; says where it is");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    return checkpoint(*options, client, context);
  });
}

}  // namespace lockstep::launcher
