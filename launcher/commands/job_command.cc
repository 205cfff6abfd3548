#include "launcher/commands/job_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <map>
#include <ostream>

#include "coordinator/client/follow.h"
#include "coordinator/client/interrupt.h"
#include "coordinator/client/log_printer.h"
#include "coordinator/client/text.h"
#include "core/error.h"

namespace lockstep::launcher {

namespace job = coordinator;
using job::JobExit;

namespace {

void add_endpoint_options(CLI::App& command, job::EndpointOptions& endpoint) {
  const auto path = [&](const char* name, std::filesystem::path& target, const char* help) {
    command
        .add_option_function<std::string>(
            name, [&target](const std::string& text) { target = text; }, help)
        ->check(not_empty())
        ->option_text("FILE")
        ->group("Coordinator");
  };
  command
      .add_option(
          "--address", endpoint.address,
          "unix:/PATH or HOST:PORT of the coordinator; default: LOCKSTEP_ADDRESS, else this "
          "user's socket")
      ->check(not_empty())
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
  static const std::map<std::string, JobFormat> kForms = {{"table", JobFormat::kTable},
                                                          {"json", JobFormat::kJson},
                                                          {"jsonl", JobFormat::kJsonLines},
                                                          {"yaml", JobFormat::kYaml},
                                                          {"name", JobFormat::kName}};
  const auto set = [&options](const std::string& word) { options.format = kForms.at(word); };
  CLI::Option* form =
      command
          .add_option_function<std::string>("-o", set,
                                            "form of the output; several things are a "
                                            "JSON array, or with jsonl a line each")
          ->check(CLI::IsMember({"table", "json", "jsonl", "yaml", "name"}).description(""))
          ->option_text("table|json|jsonl|yaml|name");
  command
      .add_flag_callback(
          "--jsonl", [&options] { options.format = JobFormat::kJsonLines; }, "the same as -o jsonl")
      ->excludes(form);
  add_endpoint_options(command, options.endpoint);
}

CLI::Option* add_run_argument(CLI::App& command, std::string& run) {
  return command.add_option("run", run, "id or name of a run, or the beginning of an id")
      ->required()
      ->check(not_empty())
      ->option_text("RUN");
}

CLI::Option* add_runs_argument(CLI::App& command, std::vector<std::string>& runs) {
  return command.add_option("runs", runs, "ids or names of runs")
      ->check(not_empty())
      ->option_text("RUN...");
}

void add_selection(CLI::App& command, RunSelection& selection, Selected which) {
  add_runs_argument(command, selection.runs);
  command
      .add_option(
          "--filter", selection.filter,
          which == Selected::kLive
              ? "all that have not ended and match, such as 'label.team = \"x\" AND state = QUEUED'"
              : "all that have ended and match, such as 'label.team = \"x\" AND state = FAILED'")
      ->check(not_empty())
      ->option_text("TEXT");
  command.add_flag("--dry-run", selection.dry_run, "only say which runs that would be");
}

std::vector<std::string> selected(job::Client& client, const RunSelection& selection,
                                  Selected which) {
  if (selection.runs.empty() && selection.filter.empty()) {
    throw core::Error(core::ErrorKind::kConfig, "expected the ids or names of runs, or --filter");
  }
  std::vector<std::string> names = selection.runs;
  if (selection.filter.empty()) return names;
  job::v1::ListRunsRequest request;
  request.set_filter("(" + selection.filter + ")");
  request.set_page_size(500);
  do {
    const job::v1::ListRunsResponse page = client.list_runs(request);
    for (const job::v1::Run& run : page.runs()) {
      if (job::has_ended(run) == (which == Selected::kEnded)) names.push_back(run.uid());
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return names;
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
    std::optional<job::DocumentList> documents;
    if (const auto form = document_form(format)) documents.emplace(context.out, *form);
    const auto show = [&](const job::v1::LogChunk& chunk) {
      if (documents) {
        documents->add_json(job::log_json(chunk));
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

std::optional<job::DocumentForm> document_form(JobFormat format) {
  switch (format) {
    case JobFormat::kJson:
      return job::DocumentForm::kJson;
    case JobFormat::kJsonLines:
      return job::DocumentForm::kJsonLines;
    case JobFormat::kYaml:
      return job::DocumentForm::kYaml;
    default:
      return std::nullopt;
  }
}

bool print_document(CommandContext& context, JobFormat format,
                    const google::protobuf::Message& message) {
  const auto form = document_form(format);
  if (form) context.out << job::to_document(*form, message) << std::flush;
  return form.has_value();
}

RunPrinter::RunPrinter(CommandContext& context, JobFormat format)
    : context_(context), format_(format) {
  if (const auto form = document_form(format)) list_.emplace(context.out, *form);
}

void RunPrinter::print(const job::v1::Run& run) {
  if (list_) {
    list_->add(run);
  } else {
    print_run(context_, format_, run);
  }
}

void print_run(CommandContext& context, JobFormat format, const job::v1::Run& run) {
  if (print_document(context, format, run)) return;
  if (format == JobFormat::kName) {
    context.out << run.name() << std::endl;
    return;
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
