#include "launcher/commands/wait_command.h"

#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <ostream>

#include "coordinator/client/follow.h"
#include "coordinator/client/text.h"
#include "core/error.h"
#include "launcher/commands/job_command.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;
using job::JobExit;

namespace {

struct WaitOptions : JobOptions {
  std::vector<std::string> runs{};
  std::string until = "end";
  std::string timeout{};
};

void read_until(const std::string& text, v1::WaitRunRequest& request) {
  const std::size_t equals = text.find('=');
  const std::string word = text.substr(0, equals);
  const std::string number = equals == std::string::npos ? "" : text.substr(equals + 1);
  std::int64_t step = 0;
  const auto parsed = std::from_chars(number.data(), number.data() + number.size(), step);
  const bool has_step = !number.empty() && parsed.ec == std::errc() &&
                        parsed.ptr == number.data() + number.size() && step >= 0;
  request.set_step(step);
  if (word == "end" && number.empty()) return request.set_until(v1::WaitRunRequest::TERMINAL);
  if (word == "running" && number.empty()) return request.set_until(v1::WaitRunRequest::RUNNING);
  if (word == "paused" && number.empty()) return request.set_until(v1::WaitRunRequest::PAUSED);
  if (word == "step" && has_step) return request.set_until(v1::WaitRunRequest::STEP);
  if (word == "checkpoint" && (has_step || equals == std::string::npos)) {
    return request.set_until(v1::WaitRunRequest::CHECKPOINT);
  }
  throw core::Error(
      core::ErrorKind::kConfig,
      fmt::format("--for {}: expected end, running, paused, step=N, checkpoint or checkpoint=N",
                  text));
}

// What several runs came to: the worst of it, in this order.
JobExit worse(JobExit one, JobExit other) {
  for (const JobExit exit :
       {JobExit::kStillGoing, JobExit::kRunFailed, JobExit::kCancelled, JobExit::kConflict}) {
    if (one == exit || other == exit) return exit;
  }
  return JobExit::kOk;
}

JobExit tell(const WaitOptions& options, CommandContext& context, RunPrinter& printer,
             const v1::WaitRunRequest& request, const v1::WaitRunResponse& answer) {
  printer.print(answer.run());
  if (request.until() == v1::WaitRunRequest::TERMINAL && job::has_ended(answer.run())) {
    return job::verdict(answer.run());
  }
  if (answer.reached()) return JobExit::kOk;
  if (!job::has_ended(answer.run())) {
    context.err << "lockstep: the time is over; the run goes on" << std::endl;
    return JobExit::kStillGoing;
  }
  const JobExit verdict = job::verdict(answer.run());
  context.err << fmt::format("lockstep: the run ended before it was {}\n", options.until);
  return verdict == JobExit::kOk ? JobExit::kConflict : verdict;
}

// All of them, within one time.
JobExit wait(const WaitOptions& options, job::Client& client, CommandContext& context) {
  v1::WaitRunRequest request;
  read_until(options.until, request);
  std::chrono::milliseconds timeout{0};
  if (!options.timeout.empty()) {
    const auto duration = job::parse_duration(options.timeout);
    timeout = std::chrono::milliseconds(
        std::max<std::int64_t>(1, duration.seconds() * 1000 + duration.nanos() / 1'000'000));
  }
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + timeout;
  JobExit exit = JobExit::kOk;
  RunPrinter printer(context, options.runs.size() == 1 && options.format == JobFormat::kJson
                                  ? JobFormat::kJsonLines
                                  : options.format);
  for (const std::string& run : options.runs) {
    request.set_name(run);
    const JobExit one = detachable(client, context, run, [&] {
      auto left = timeout;
      if (timeout.count() > 0) {
        left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
        left = std::max(left, std::chrono::milliseconds(1));
      }
      return tell(options, context, printer, request, job::wait_for_run(client, request, left));
    });
    exit = worse(exit, one);
    if (one == JobExit::kStillGoing && timeout.count() == 0) break;  // Ctrl-C
  }
  return exit;
}

}  // namespace

void add_wait_command(CLI::App& app, CommandContext& context) {
  CLI::App* command =
      app.add_subcommand("wait",
                         "wait for runs; the exit code is their verdict: 0 all succeeded, 1 one "
                         "failed, 3 one was cancelled, 4 not yet");
  auto options = std::make_shared<WaitOptions>();
  add_runs_argument(*command, options->runs)->required();
  command
      ->add_option("--for", options->until,
                   "end, running, paused, step=N, checkpoint or checkpoint=N")
      ->option_text("WHAT")
      ->capture_default_str();
  command->add_option("--timeout", options->timeout, "at most so long: 90s, 15m, 2h")
      ->check(not_empty())
      ->option_text("TIME");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    return wait(*options, client, context);
  });
}

}  // namespace lockstep::launcher
