#include "launcher/commands/pause_command.h"

#include <memory>

#include "coordinator/client/follow.h"
#include "launcher/commands/job_command.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;
using job::JobExit;

namespace {

struct PauseOptions : JobOptions {
  RunSelection selection{};
  std::string reason{};
  bool wait = false;
};

JobExit pause(const PauseOptions& options, job::Client& client, CommandContext& context) {
  JobExit exit = JobExit::kOk;
  RunPrinter printer(context, options.format);
  for (const std::string& name : selected(client, options.selection)) {
    if (options.selection.dry_run) {
      v1::GetRunRequest get;
      get.set_name(name);
      printer.print(client.get_run(get));
      continue;
    }
    v1::PauseRunRequest request;
    request.set_name(name);
    request.set_reason(options.reason);
    v1::Run run = client.pause_run(request);
    if (options.wait && run.stop_intent() == v1::Run::STOP_INTENT_PAUSE) {
      v1::WaitRunRequest until;
      until.set_name(run.uid());
      until.set_until(v1::WaitRunRequest::PAUSED);
      const auto answer = job::wait_for_run(client, until, std::chrono::milliseconds::zero());
      run = answer.run();
      // It had been done before it could be paused, or it failed.
      if (!answer.reached()) exit = JobExit::kConflict;
    }
    printer.print(run);
  }
  return exit;
}

}  // namespace

void add_pause_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "pause", "save runs, stop them and free their slots; one that waits is held");
  auto options = std::make_shared<PauseOptions>();
  add_selection(*command, options->selection);
  command->add_option("--reason", options->reason, "kept with the run")->option_text("TEXT");
  command->add_flag("--wait", options->wait, "until they are paused");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    return pause(*options, client, context);
  });
}

}  // namespace lockstep::launcher
