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
  command->add_option("runs", options->runs, "ids of runs")->required()->option_text("RUN...");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    for (const std::string& name : options->runs) {
      job::v1::ResumeRunRequest request;
      request.set_name(name);
      print_run(context, options->format, client.resume_run(request));
    }
    return job::JobExit::kOk;
  });
}

}  // namespace lockstep::launcher
