#include "launcher/commands/resume_command.h"

#include <memory>

#include "launcher/commands/job_command.h"

namespace lockstep::launcher {

namespace job = coordinator;

namespace {

struct ResumeOptions : JobOptions {
  std::vector<std::string> runs{};
};

}  // namespace

void add_resume_command(CLI::App& app, CommandContext& context) {
  CLI::App* command =
      app.add_subcommand("resume", "queue paused runs again; they go on where they were");
  auto options = std::make_shared<ResumeOptions>();
  add_runs_argument(*command, options->runs)->required();
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    RunPrinter printer(context, options->format);
    for (const std::string& name : options->runs) {
      job::v1::ResumeRunRequest request;
      request.set_name(name);
      printer.print(client.resume_run(request));
    }
    return job::JobExit::kOk;
  });
}

}  // namespace lockstep::launcher
