#include "launcher/commands/cancel_command.h"

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

struct CancelOptions : JobOptions {
  RunSelection selection{};
  std::string reason{};
  std::string grace{};
  bool force = false;
  bool wait = false;
};

JobExit cancel(const CancelOptions& options, job::Client& client, CommandContext& context) {
  RunPrinter printer(context, options.format);
  for (const std::string& name : selected(client, options.selection)) {
    if (options.selection.dry_run) {
      v1::GetRunRequest get;
      get.set_name(name);
      printer.print(client.get_run(get));
      continue;
    }
    v1::CancelRunRequest request;
    request.set_name(name);
    request.set_reason(options.reason);
    request.set_force(options.force);
    if (!options.grace.empty()) *request.mutable_grace() = job::parse_duration(options.grace);
    v1::Run run = client.cancel_run(request);
    if (options.wait && !job::has_ended(run)) {
      v1::WaitRunRequest until;
      until.set_name(run.uid());
      run = job::wait_for_run(client, until, std::chrono::milliseconds::zero()).run();
    }
    printer.print(run);
    if (job::has_ended(run) && run.state() != v1::Run::CANCELLED) {
      context.err << "lockstep: run " << run.uid() << " had ended before" << std::endl;
    }
  }
  return JobExit::kOk;
}

}  // namespace

void add_cancel_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "cancel", "end runs: a checkpoint at the next step first, then no process of them is left");
  auto options = std::make_shared<CancelOptions>();
  add_selection(*command, options->selection);
  command->add_option("--reason", options->reason, "kept with the run")->option_text("TEXT");
  command->add_option("--grace", options->grace, "time for the checkpoint; default 30s")
      ->check(not_empty())
      ->option_text("TIME");
  command->add_flag("--force", options->force, "kill at once, without a checkpoint");
  command->add_flag("--wait", options->wait, "until they have ended");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    return cancel(*options, client, context);
  });
}

}  // namespace lockstep::launcher
