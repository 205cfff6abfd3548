#include "launcher/commands/runs_command.h"

#include <fmt/format.h>

#include <limits>
#include <memory>
#include <optional>
#include <ostream>

#include "coordinator/client/text.h"
#include "core/error.h"
#include "launcher/commands/job_command.h"
#include "launcher/commands/run_report.h"
#include "launcher/commands/runs_delete_command.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;
using job::JobExit;

namespace {

constexpr int kPage = 500;
constexpr int kPageOfPeople = 50;
constexpr int kAll = std::numeric_limits<int>::max();

struct ListOptions : JobOptions {
  std::vector<std::string> states{};
  std::vector<std::string> labels{};
  std::string filter{};
  std::string order{};
  std::optional<int> limit{};
};

struct OneRunOptions : JobOptions {
  std::string run{};
  bool config = false;
  bool verify = false;
};

struct UpdateOptions : OneRunOptions {
  std::string name{};
  std::string notes{};
  std::vector<std::string> labels{};
  int priority = 0;
  std::string time_limit{};
  bool hold = false;
  bool release = false;
};

// A text in the filter language.
std::string quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

std::pair<std::string, std::string> split_label(const std::string& label) {
  const std::size_t equals = label.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("--label {}: expected KEY=VALUE", label));
  }
  return {label.substr(0, equals), label.substr(equals + 1)};
}

std::string make_filter(const ListOptions& options) {
  std::vector<std::string> parts;
  if (!options.filter.empty()) parts.push_back("(" + options.filter + ")");
  std::vector<std::string> states;
  for (const std::string& state : options.states)
    states.push_back("state = " + state);
  if (!states.empty()) parts.push_back(fmt::format("({})", fmt::join(states, " OR ")));
  for (const std::string& label : options.labels) {
    const auto [key, value] = split_label(label);
    parts.push_back(fmt::format("label.{} = {}", key, quoted(value)));
  }
  return fmt::format("{}", fmt::join(parts, " AND "));
}

v1::ListRunsResponse list_pages(job::Client& client, const ListOptions& options) {
  v1::ListRunsRequest request;
  request.set_filter(make_filter(options));
  request.set_order_by(options.order);
  v1::ListRunsResponse all;
  // People get a page unless they ask for more; programs get all.
  const int limit =
      options.limit.value_or(options.format == JobFormat::kTable ? kPageOfPeople : kAll);
  for (int left = limit; left > 0;) {
    request.set_page_size(std::min(left, kPage));
    v1::ListRunsResponse page = client.list_runs(request);
    left -= page.runs_size();
    all.set_total_size(page.total_size());
    all.set_next_page_token(page.next_page_token());
    for (v1::Run& run : *page.mutable_runs())
      *all.add_runs() = std::move(run);
    if (page.next_page_token().empty() || page.runs().empty()) break;
    request.set_page_token(page.next_page_token());
  }
  return all;
}

JobExit list(const ListOptions& options, job::Client& client, CommandContext& context) {
  const v1::ListRunsResponse runs = list_pages(client, options);
  if (const auto form = document_form(options.format)) {
    job::DocumentList list(context.out, *form);
    for (const v1::Run& run : runs.runs())
      list.add(run);
  } else if (options.format == JobFormat::kName) {
    for (const v1::Run& run : runs.runs())
      context.out << run.name() << "\n";
  } else {
    print_run_table(context.out, runs);
  }
  if (!runs.next_page_token().empty()) {
    context.err << fmt::format("lockstep: {} of {} runs; --limit shows more\n", runs.runs_size(),
                               runs.total_size());
  }
  return JobExit::kOk;
}

JobExit show(const OneRunOptions& options, job::Client& client, CommandContext& context) {
  v1::GetRunRequest request;
  request.set_name(options.run);
  const v1::Run run = client.get_run(request);
  if (options.config) {
    context.out << run.resolved_config();
  } else if (options.format == JobFormat::kTable) {
    v1::ListAttemptsRequest attempts;
    attempts.set_name(run.uid());
    print_run_details(context.out, run, client.list_attempts(attempts));
  } else {
    print_run(context, options.format, run);
  }
  return JobExit::kOk;
}

v1::UpdateRunRequest make_update(const UpdateOptions& options, const CLI::App& command,
                                 job::Client& client) {
  v1::UpdateRunRequest request;
  v1::Run& run = *request.mutable_run();
  const auto mask = [&](const char* option, const char* field) {
    if (command.count(option) == 0) return false;
    request.mutable_update_mask()->add_paths(field);
    return true;
  };
  run.set_name(options.run);
  if (mask("--name", "display_name")) run.set_display_name(options.name);
  if (mask("--notes", "notes")) run.set_notes(options.notes);
  if (mask("--priority", "priority")) run.set_priority(options.priority);
  if (mask("--hold", "hold")) run.set_hold(true);
  if (mask("--release", "hold")) run.set_hold(false);
  if (mask("--time-limit", "time_limit")) {
    *run.mutable_time_limit() = job::parse_duration(options.time_limit);
  }
  if (mask("--label", "labels")) {
    // Labels are replaced as a whole; those that are not named here stay.
    v1::GetRunRequest get;
    get.set_name(options.run);
    const v1::Run before = client.get_run(get);
    *run.mutable_labels() = before.labels();
    run.set_etag(before.etag());
    for (const std::string& label : options.labels) {
      const auto [key, value] = split_label(label);
      if (value.empty()) {
        run.mutable_labels()->erase(key);
      } else {
        (*run.mutable_labels())[key] = value;
      }
    }
  }
  if (request.update_mask().paths().empty()) {
    throw core::Error(core::ErrorKind::kConfig,
                      "nothing to change; give one of --name, --notes, --label, --priority, "
                      "--time-limit, --hold, --release");
  }
  return request;
}

JobExit events(const OneRunOptions& options, job::Client& client, CommandContext& context) {
  v1::ListEventsRequest request;
  request.set_name(options.run);
  request.set_page_size(kPage);
  job::Table table({"TIME", "EVENT", "BY", "CONTEXT"});
  std::optional<job::DocumentList> documents;
  if (const auto form = document_form(options.format)) documents.emplace(context.out, *form);
  for (;;) {
    const v1::ListEventsResponse page = client.list_events(request);
    for (const v1::RunEvent& event : page.events()) {
      request.set_after_sequence(event.sequence());
      if (documents) {
        documents->add(event);
      } else if (options.format == JobFormat::kName) {
        context.out << event.kind() << "\n";
      } else {
        table.add(
            {job::format_time(event.time()), event.kind(), event.actor(), event.context_json()});
      }
    }
    if (page.events_size() < kPage) break;
  }
  if (options.format == JobFormat::kTable) table.print(context.out, job::terminal_width());
  return JobExit::kOk;
}

JobExit checkpoints(const OneRunOptions& options, job::Client& client, CommandContext& context) {
  v1::ListCheckpointsRequest request;
  request.set_name(options.run);
  request.set_verify(options.verify);
  const v1::ListCheckpointsResponse answer = client.list_checkpoints(request);
  if (const auto form = document_form(options.format)) {
    job::DocumentList list(context.out, *form);
    for (const v1::Checkpoint& one : answer.checkpoints())
      list.add(one);
    return JobExit::kOk;
  }
  job::Table table({"STEP", "MADE", "BYTES", "VERIFIED", "HEALTHY", "PATH", "PROBLEM"});
  for (const v1::Checkpoint& one : answer.checkpoints()) {
    if (options.format == JobFormat::kName) context.out << one.name() << "\n";
    table.add({std::to_string(one.step()), job::format_time(one.create_time()),
               std::to_string(one.bytes()), one.verified() ? "yes" : "no",
               one.healthy() ? "yes" : "no", one.path(), one.problem()});
  }
  if (options.format == JobFormat::kTable) table.print(context.out, job::terminal_width());
  return JobExit::kOk;
}

void add_list(CLI::App& runs, CommandContext& context) {
  CLI::App* command = runs.add_subcommand("list", "list runs, newest first");
  auto options = std::make_shared<ListOptions>();
  command->add_option("--state", options->states, "only in this state, e.g. RUNNING (repeatable)")
      ->allow_extra_args(false)
      ->transform(CLI::CheckedTransformer(
                      std::vector<std::pair<std::string, std::string>>{{"WAITING", "WAITING"},
                                                                       {"QUEUED", "QUEUED"},
                                                                       {"STARTING", "STARTING"},
                                                                       {"RUNNING", "RUNNING"},
                                                                       {"STOPPING", "STOPPING"},
                                                                       {"BACKOFF", "BACKOFF"},
                                                                       {"PAUSED", "PAUSED"},
                                                                       {"SUCCEEDED", "SUCCEEDED"},
                                                                       {"FAILED", "FAILED"},
                                                                       {"CANCELLED", "CANCELLED"}},
                      CLI::ignore_case)
                      .description(""))
      ->option_text("STATE");
  command->add_option("--label", options->labels, "only with this label (repeatable)")
      ->allow_extra_args(false)
      ->option_text("KEY=VALUE");
  command
      ->add_option("--filter", options->filter,
                   "such as 'state = FAILED AND display_name : \"gpt\" AND priority > 3'")
      ->option_text("TEXT");
  command
      ->add_option("--order-by", options->order,
                   "create_time, priority, state or display_name; with ' desc' the other way")
      ->option_text("KEY");
  command
      ->add_option("--limit", options->limit, "at most so many; default: 50 in a table, else all")
      ->check(CLI::Range(1, 1 << 20).description(""))
      ->option_text("N");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    return list(*options, client, context);
  });
}

using OneRunAction = JobExit (*)(const OneRunOptions&, job::Client&, CommandContext&);

CLI::App* add_one_run(CLI::App& runs, CommandContext& context, const char* name, const char* help,
                      const std::shared_ptr<OneRunOptions>& options, OneRunAction action) {
  CLI::App* command = runs.add_subcommand(name, help);
  add_run_argument(*command, options->run);
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, action, &context](job::Client& client) {
    return action(*options, client, context);
  });
  return command;
}

void add_update(CLI::App& runs, CommandContext& context) {
  CLI::App* command = runs.add_subcommand("update", "change what may be changed of a run");
  auto options = std::make_shared<UpdateOptions>();
  add_run_argument(*command, options->run);
  command->add_option("--name", options->name, "for people")->option_text("TEXT");
  command->add_option("--notes", options->notes, "for people")->option_text("TEXT");
  command->add_option("--label", options->labels, "set; KEY= takes it off (repeatable)")
      ->allow_extra_args(false)
      ->option_text("KEY=VALUE");
  command->add_option("--priority", options->priority, "higher first")
      ->check(CLI::Range(-1000, 1000).description(""))
      ->option_text("N");
  command->add_option("--time-limit", options->time_limit, "of an attempt, such as 30m; 0s: none")
      ->option_text("TIME");
  CLI::Option* hold = command->add_flag("--hold", options->hold, "do not start it");
  command->add_flag("--release", options->release, "it may start again")->excludes(hold);
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, command, &context](job::Client& client) {
    print_run(context, options->format, client.update_run(make_update(*options, *command, client)));
    return JobExit::kOk;
  });
}

}  // namespace

void add_runs_command(CLI::App& app, CommandContext& context) {
  CLI::App* runs = app.add_subcommand("runs", "list runs and show what is known of one");
  runs->require_subcommand(1);
  add_list(*runs, context);
  auto shown = std::make_shared<OneRunOptions>();
  add_one_run(*runs, context, "show", "all that is known of a run", shown, show)
      ->add_flag("--config", shown->config, "its configuration with every default instead");
  add_update(*runs, context);
  add_runs_delete_commands(*runs, context);
  add_one_run(*runs, context, "events", "what has happened to a run",
              std::make_shared<OneRunOptions>(), events);
  auto checked = std::make_shared<OneRunOptions>();
  add_one_run(*runs, context, "checkpoints", "the checkpoints of a run", checked, checkpoints)
      ->add_flag("--verify", checked->verify, "compare all hashes");
}

}  // namespace lockstep::launcher
