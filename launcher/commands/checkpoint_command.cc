#include "launcher/commands/checkpoint_command.h"

#include <fmt/format.h>

#include <memory>
#include <ostream>

#include "coordinator/client/follow.h"
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
  const v1::CheckpointRunResponse answer =
      options.wait ? job::wait_for_checkpoint(client, request) : client.checkpoint_run(request);
  if (print_document(context, options.format, answer)) {
    // as the coordinator told it
  } else if (!answer.has_checkpoint()) {
    print_run(context, options.format, answer.run());
  } else if (options.format == JobFormat::kName) {
    context.out << answer.checkpoint().name() << std::endl;
  } else {
    context.out << fmt::format("step {}: {}", answer.checkpoint().step(),
                               job::escape_for_terminal(answer.checkpoint().path()))
                << std::endl;
  }
  if (options.wait && !answer.has_checkpoint()) {
    context.err << "lockstep: no checkpoint came of the request; 'lockstep logs' and 'lockstep "
                   "explain' say why"
                << std::endl;
    return JobExit::kConflict;
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
