#include "launcher/commands/retry_command.h"

#include <memory>

#include "launcher/commands/job_command.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;
using job::JobExit;

namespace {

struct RetryOptions : JobOptions {
  std::string run{};
  std::vector<std::string> overrides{};
  std::string request_id{};
  bool from_start = false;
  bool follow = false;
};

JobExit retry(const RetryOptions& options, job::Client& client, CommandContext& context) {
  v1::RetryRunRequest request;
  request.set_name(options.run);
  request.mutable_overrides()->Add(options.overrides.begin(), options.overrides.end());
  request.set_from_start(options.from_start);
  request.set_request_id(options.request_id);
  const v1::Run run = client.retry_run(request);
  print_run(context, options.format, run);
  if (!options.follow) return JobExit::kOk;
  v1::ReadLogsRequest logs;
  logs.set_name(run.uid());
  logs.set_follow(true);
  return follow_run(client, context, logs, options.format);
}

}  // namespace

void add_retry_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "retry", "make a new run of one that has ended; it goes on from the newest good checkpoint");
  auto options = std::make_shared<RetryOptions>();
  add_run_argument(*command, options->run);
  add_set_option(*command, options->overrides);
  command->add_flag("--from-start", options->from_start, "without its checkpoints");
  command->add_option("--request-id", options->request_id, "UUID; the same one gives the same run")
      ->option_text("UUID");
  command->add_flag("-f,--follow", options->follow, "follow its logs until it has ended");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    return retry(*options, client, context);
  });
}

}  // namespace lockstep::launcher
