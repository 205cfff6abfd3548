#include "launcher/commands/logs_command.h"

#include <memory>

#include "coordinator/client/text.h"
#include "launcher/commands/job_command.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;

namespace {

struct LogsOptions : JobOptions {
  std::string run{};
  bool follow = false;
  std::vector<int> ranks{};
  std::string stream{};
  std::string since{};
  std::int64_t tail = 0;
  int attempt = 0;
};

v1::ReadLogsRequest make_request(const LogsOptions& options) {
  v1::ReadLogsRequest request;
  request.set_name(options.run);
  request.set_follow(options.follow);
  request.mutable_ranks()->Add(options.ranks.begin(), options.ranks.end());
  if (options.stream == "stdout") request.set_stream(v1::ReadLogsRequest::STDOUT);
  if (options.stream == "stderr") request.set_stream(v1::ReadLogsRequest::STDERR);
  if (!options.since.empty()) {
    *request.mutable_since_time() = job::parse_moment(options.since, job::now_ns());
  }
  request.set_tail_lines(options.tail);
  request.set_attempt(options.attempt);
  return request;
}

}  // namespace

void add_logs_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("logs", "show what the ranks of a run wrote");
  auto options = std::make_shared<LogsOptions>();
  add_run_argument(*command, options->run);
  command->add_flag("-f,--follow", options->follow,
                    "go on until the run has ended, and end with its verdict as exit code; Ctrl-C "
                    "leaves it running");
  command->add_option("--rank", options->ranks, "only this one (repeatable); -1: mpirun")
      ->allow_extra_args(false)
      ->option_text("N");
  command->add_option("--stream", options->stream, "only stdout, or only stderr")
      ->check(CLI::IsMember({"stdout", "stderr"}).description(""))
      ->option_text("stdout|stderr");
  command
      ->add_option("--since", options->since,
                   "only what is newer: 10m, or a moment such as 2026-11-21T09:30:00Z")
      ->check(not_empty())
      ->option_text("TIME");
  command->add_option("--tail", options->tail, "only the last lines of each rank")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40).description(""))
      ->option_text("N");
  command->add_option("--attempt", options->attempt, "default: the last one")
      ->check(CLI::Range(1, 1 << 20).description(""))
      ->option_text("N");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    return follow_run(client, context, make_request(*options), options->format);
  });
}

}  // namespace lockstep::launcher
