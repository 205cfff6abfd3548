#include "launcher/commands/runs_delete_command.h"

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

struct DeleteOptions : JobOptions {
  RunSelection selection{};
  bool archive = false;
};

JobExit forget(const DeleteOptions& options, job::Client& client, CommandContext& context) {
  RunPrinter printer(context, options.format);
  for (const std::string& name : selected(client, options.selection, Selected::kEnded)) {
    v1::GetRunRequest get;
    get.set_name(name);
    const v1::Run run = client.get_run(get);
    if (!options.selection.dry_run) {
      v1::DeleteRunRequest request;
      request.set_name(run.name());
      request.set_archive(options.archive);
      const v1::DeleteRunResponse answer = client.delete_run(request);
      if (options.archive) {
        context.err << fmt::format("lockstep: run {} is in {}\n", run.uid(),
                                   job::escape_for_terminal(answer.archive()));
      }
    }
    printer.print(run);
  }
  return JobExit::kOk;
}

void add(CLI::App& runs, CommandContext& context, bool archive) {
  CLI::App* command = runs.add_subcommand(
      archive ? "archive" : "delete",
      archive ? "put ended runs, with events and logs, into a directory beside the store"
              : "forget ended runs, their events and logs; run.output stays");
  auto options = std::make_shared<DeleteOptions>();
  options->archive = archive;
  add_selection(*command, options->selection, Selected::kEnded);
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    return forget(*options, client, context);
  });
}

}  // namespace

void add_runs_delete_commands(CLI::App& runs, CommandContext& context) {
  add(runs, context, false);
  add(runs, context, true);
}

}  // namespace lockstep::launcher
