#include "launcher/commands/job_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <ostream>

#include "coordinator/client/follow.h"
#include "coordinator/client/interrupt.h"
#include "coordinator/client/log_printer.h"
#include "coordinator/client/text.h"

namespace lockstep::launcher {

namespace job = coordinator;
using job::JobExit;

namespace {

void add_endpoint_options(CLI::App& command, job::EndpointOptions& endpoint) {
  const auto path = [&](const char* name, std::filesystem::path& target, const char* help) {
    command
        .add_option_function<std::string>(
            name, [&target](const std::string& text) { target = text; }, help)
        ->option_text("FILE")
        ->group("Coordinator");
  };
  command
      .add_option(
          "--address", endpoint.address,
          "unix:/PATH or HOST:PORT of the coordinator; default: LOCKSTEP_ADDRESS, else this "
          "user's socket")
      ->option_text("ADDRESS")
      ->group("Coordinator");
  path("--token-file", endpoint.token_file,
       "file with the token; default: LOCKSTEP_TOKEN, LOCKSTEP_TOKEN_FILE");
  path("--ca", endpoint.ca,
       "PEM of who signed the coordinator's certificate; default: LOCKSTEP_CA");
  path("--certificate", endpoint.certificate,
       "PEM to show to the coordinator; default: LOCKSTEP_CERTIFICATE");
  path("--key", endpoint.key, "PEM of its key; default: LOCKSTEP_KEY");
  command
      .add_option("--patience", endpoint.patience_seconds,
                  "how long to try while no coordinator answers")
      ->check(CLI::Range(0.0, 1e6).description(""))
      ->option_text("SECONDS")
      ->capture_default_str()
      ->group("Coordinator");
}

}  // namespace

void add_job_options(CLI::App& command, JobOptions& options) {
  const auto set = [&options](const std::string& word) {
    options.format = word == "json"   ? JobFormat::kJson
                     : word == "name" ? JobFormat::kName
                                      : JobFormat::kTable;
  };
  command.add_option_function<std::string>("-o", set, "form of the output: table, json or name")
      ->check(CLI::IsMember({"table", "json", "name"}).description(""))
      ->option_text("table|json|name");
  add_endpoint_options(command, options.endpoint);
}

CLI::Option* add_run_argument(CLI::App& command, std::string& run) {
  return command.add_option("run", run, "id of a run, or the beginning of one")
      ->required()
      ->option_text("RUN");
}

void set_job_action(CLI::App& command, CommandContext& context, const JobOptions& options,
                    JobAction action) {
  set_action(command, context, [&context, &options, action = std::move(action)] {
    try {
      job::Client client(job::resolve_endpoint(options.endpoint));
      return static_cast<int>(action(client));
    } catch (const job::CallError& error) {
      context.err << "lockstep: " << job::escape_for_terminal(error.text()) << std::endl;
      return static_cast<int>(error.exit());
    }
  });
}

JobExit detachable(job::Client& client, CommandContext& context, const std::string& run,
                   const std::function<JobExit()>& action) {
  const job::Interrupt interrupt([&client] { client.interrupt(); });
  try {
    return action();
  } catch (const job::Interrupted&) {
    context.err << fmt::format(
                       "lockstep: left run {}, which goes on; 'lockstep logs -f {}' follows it "
                       "again, 'lockstep cancel {}' ends it",
                       run, run, run)
                << std::endl;
    return JobExit::kStillGoing;
  }
}

JobExit follow_run(job::Client& client, CommandContext& context,
                   const job::v1::ReadLogsRequest& request, JobFormat format) {
  return detachable(client, context, request.name(), [&] {
    const job::LogPrinter::Style style{request.ranks_size() != 1, escapes_output()};
    job::LogPrinter printer(context.out, context.err, style);
    const auto show = [&](const job::v1::LogChunk& chunk) {
      if (format == JobFormat::kJson) {
        context.out << job::to_json(chunk) << std::endl;
      } else {
        printer.show(chunk);
      }
    };
    const auto talk = [&](const std::string& text) {
      context.err << "lockstep: " << text << std::endl;
    };
    const auto run = job::read_all_logs(client, request, show, talk);
    printer.finish();
    if (!request.follow() || !run) return JobExit::kOk;
    return tell_verdict(context, *run);
  });
}

JobExit tell_verdict(CommandContext& context, const job::v1::Run& run) {
  std::string text = fmt::format("lockstep: run {} {}", run.uid(), state_word(run));
  if (run.progress().step() > 0) text += fmt::format(" at step {}", run.progress().step());
  if (!run.state_message().empty()) text += ": " + run.state_message();
  context.err << job::escape_for_terminal(text) << std::endl;
  return job::verdict(run);
}

void print_run(CommandContext& context, JobFormat format, const job::v1::Run& run) {
  switch (format) {
    case JobFormat::kJson:
      context.out << job::to_json(run) << std::endl;
      return;
    case JobFormat::kName:
      context.out << run.name() << std::endl;
      return;
    case JobFormat::kTable:
      break;
  }
  std::string text = fmt::format("{} {}", run.name(), state_word(run));
  if (const std::string word = intent_word(run); !word.empty()) text += ", " + word;
  if (!run.state_message().empty()) text += ": " + run.state_message();
  context.out << job::escape_for_terminal(text) << std::endl;
}

std::string state_word(const job::v1::Run& run) {
  const std::string& name = job::v1::Run::State_Name(run.state());
  return name.empty() ? std::to_string(static_cast<int>(run.state())) : name;
}

std::string intent_word(const job::v1::Run& run) {
  if (job::has_ended(run)) return "";
  switch (run.stop_intent()) {
    case job::v1::Run::STOP_INTENT_NONE:
      return "";
    case job::v1::Run::STOP_INTENT_PREEMPT:
      return "to make room";
    case job::v1::Run::STOP_INTENT_HOST_DRAIN:
      return "to leave its host";
    case job::v1::Run::STOP_INTENT_PAUSE:
      return "to pause";
    case job::v1::Run::STOP_INTENT_TIME_LIMIT:
      return "its time is over";
    case job::v1::Run::STOP_INTENT_CANCEL:
      return "to be cancelled";
    default:
      return fmt::format("to stop ({})", static_cast<int>(run.stop_intent()));
  }
}

bool escapes_output() {
  return isatty(STDOUT_FILENO) != 0;
}

}  // namespace lockstep::launcher
