#include "launcher/commands/submit_command.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <ostream>
#include <sstream>

#include "coordinator/client/follow.h"
#include "coordinator/client/text.h"
#include "core/error.h"
#include "launcher/commands/job_command.h"
#include "runtime/config/document.h"
#include "runtime/config/load_config.h"
#include "runtime/config/schema.h"
#include "runtime/config/value.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;
using job::JobExit;

namespace {

struct SubmitOptions : JobOptions {
  std::string file{};
  std::vector<std::string> overrides{};
  std::string name{};
  std::string notes{};
  std::vector<std::string> labels{};
  std::vector<std::string> environment{};
  std::vector<std::string> after{};
  std::vector<std::string> hosts{};
  int ranks = 1;
  int ranks_per_host = 0;
  int priority = 0;
  std::optional<int> max_restarts{};
  std::string time_limit{};
  std::string request_id{};
  bool hold = false;
  bool follow = false;
  bool wait = false;
  bool dry_run = false;
};

std::string read_text(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream || std::filesystem::is_directory(file)) {
    throw core::Error(core::ErrorKind::kConfig, file + ": cannot read the configuration");
  }
  return text.str();
}

bool is_absolute(const runtime::Document& document, const runtime::Key& key) {
  const YAML::Node node = document.find(key.path)->node;
  const auto absolute = [](const YAML::Node& path) {
    return path.IsScalar() && path.Scalar().starts_with("/");
  };
  if (!node.IsSequence()) return absolute(node);
  return std::all_of(node.begin(), node.end(), absolute);
}

// The overrides that make every path mean on the coordinator's machine what it means here. The text
// itself stays as it was written, so that messages name its lines.
std::vector<std::string> absolute_paths(const std::string& text, const SubmitOptions& options,
                                        const runtime::Config& config) {
  runtime::Problems problems;
  runtime::Document document(text, options.file, problems);
  for (const std::string& assignment : options.overrides)
    document.apply_override(assignment, problems);
  std::vector<std::string> overrides;
  for (const runtime::Key& key : runtime::schema_keys()) {
    const bool path =
        key.kind == runtime::ValueKind::kPath || key.kind == runtime::ValueKind::kPaths;
    if (!path) continue;
    const bool given = document.given(key.path);
    // The default output lies below the directory in which one stands.
    if (!given && key.path != "run.output") continue;
    if (given && is_absolute(document, key)) continue;
    overrides.push_back(key.path + "=" + runtime::format_value(key.get(config)));
  }
  return overrides;
}

void read_labels(const SubmitOptions& options, v1::Run& run) {
  for (const std::string& label : options.labels) {
    const std::size_t equals = label.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw core::Error(core::ErrorKind::kConfig,
                        fmt::format("--label {}: expected KEY=VALUE", label));
    }
    (*run.mutable_labels())[label.substr(0, equals)] = label.substr(equals + 1);
  }
}

// NAME=VALUE, or NAME with the value that it has here.
void read_environment(const SubmitOptions& options, v1::Run& run) {
  for (const std::string& text : options.environment) {
    const std::string name = text.substr(0, text.find('='));
    const char* here = text == name ? std::getenv(name.c_str()) : text.c_str() + name.size() + 1;
    if (name.empty() || here == nullptr) {
      throw core::Error(core::ErrorKind::kConfig,
                        fmt::format("--env {}: expected NAME=VALUE, or the NAME of a variable that "
                                    "is set here",
                                    text));
    }
    (*run.mutable_environment())[name] = here;
  }
}

v1::CreateRunRequest make_request(const SubmitOptions& options) {
  const std::string text = read_text(options.file);
  // Wrong configurations are told here, where the file is.
  const runtime::Config config = runtime::parse_config(text, options.file, options.overrides);
  runtime::validate_for_world(config, options.ranks);

  v1::CreateRunRequest request;
  request.set_config_source(options.file);
  request.set_validate_only(options.dry_run);
  request.set_request_id(options.request_id.empty() ? job::make_request_id() : options.request_id);
  v1::Run& run = *request.mutable_run();
  run.set_display_name(options.name.empty() ? config.run.name : options.name);
  run.set_notes(options.notes);
  run.set_priority(options.priority);
  run.set_hold(options.hold);
  read_labels(options, run);
  read_environment(options, run);
  run.set_config_yaml(text);
  run.mutable_overrides()->Add(options.overrides.begin(), options.overrides.end());
  for (const std::string& assignment : absolute_paths(text, options, config))
    run.add_overrides(assignment);
  run.mutable_resources()->set_ranks(options.ranks);
  run.mutable_resources()->set_ranks_per_host(options.ranks_per_host);
  run.mutable_resources()->mutable_hosts()->Add(options.hosts.begin(), options.hosts.end());
  run.mutable_after()->Add(options.after.begin(), options.after.end());
  if (!options.time_limit.empty()) {
    *run.mutable_time_limit() = job::parse_duration(options.time_limit);
  }
  if (options.max_restarts) run.mutable_retry_policy()->set_max_restarts(*options.max_restarts);
  return request;
}

void print_forecast(CommandContext& context, const v1::CreateRunResponse& answer) {
  context.out << fmt::format("The configuration is accepted; output would be {}\n",
                             job::escape_for_terminal(answer.run().output()));
  if (!answer.memory().table().empty()) {
    context.out << answer.memory().table();
    if (answer.memory().table().back() != '\n') context.out << "\n";
  }
  for (const std::string& reason : answer.pending_reasons())
    context.out << "It would wait: " << job::escape_for_terminal(reason) << "\n";
  if (answer.placements().empty()) return;
  context.out << "It would start now on";
  for (const v1::Placement& placement : answer.placements()) {
    context.out << fmt::format(" {} (slots {})", placement.host(),
                               fmt::join(placement.slots(), ", "));
  }
  context.out << "\n";
}

void print_answer(CommandContext& context, const SubmitOptions& options,
                  const v1::CreateRunResponse& answer) {
  if (print_document(context, options.format, answer)) {
    // as the coordinator told it
  } else if (options.dry_run) {
    print_forecast(context, answer);
  } else {
    print_run(context, options.format, answer.run());
  }
  if (answer.replayed()) {
    context.err << "lockstep: this request id had been submitted before; this is that run\n";
  }
}

JobExit submit(const SubmitOptions& options, job::Client& client, CommandContext& context) {
  const v1::CreateRunResponse answer = client.create_run(make_request(options));
  print_answer(context, options, answer);
  if (options.dry_run) return JobExit::kOk;
  if (options.wait) {
    return detachable(client, context, answer.run().uid(), [&] {
      v1::WaitRunRequest end;
      end.set_name(answer.run().uid());
      return tell_verdict(context,
                          job::wait_for_run(client, end, std::chrono::milliseconds::zero()).run());
    });
  }
  if (!options.follow) return JobExit::kOk;
  v1::ReadLogsRequest request;
  request.set_name(answer.run().uid());
  request.set_follow(true);
  return follow_run(client, context, request, options.format);
}

void add_what_options(CLI::App& command, SubmitOptions& options) {
  command.add_option("config", options.file, "YAML or JSON file")
      ->required()
      ->option_text("CONFIG");
  add_set_option(command, options.overrides);
  command.add_option("--name", options.name, "for people; default: run.name")->option_text("TEXT");
  command.add_option("--notes", options.notes, "for people")->option_text("TEXT");
  command.add_option("--label", options.labels, "to find it by (repeatable)")
      ->allow_extra_args(false)
      ->option_text("KEY=VALUE");
  command
      .add_option(
          "--env", options.environment,
          "a variable of its ranks, as far as the coordinator lets runs set it; NAME alone: "
          "with the value that it has here (repeatable)")
      ->allow_extra_args(false)
      ->check(not_empty())
      ->option_text("NAME[=VALUE]");
  command
      .add_option("--request-id", options.request_id,
                  "UUID; submitting again with the same one gives the same run")
      ->check(not_empty())
      ->option_text("UUID");
}

void add_when_options(CLI::App& command, SubmitOptions& options) {
  command.add_option("--ranks", options.ranks, "processes, one slot each")
      ->check(CLI::Range(1, 1 << 16).description(""))
      ->option_text("N")
      ->capture_default_str();
  command.add_option("--ranks-per-host", options.ranks_per_host, "exactly so many on each host")
      ->check(CLI::Range(1, 1 << 16).description(""))
      ->option_text("N");
  command.add_option("--host", options.hosts, "only there (repeatable)")
      ->allow_extra_args(false)
      ->option_text("HOST");
  command
      .add_option("--priority", options.priority,
                  "-1000 to 1000, higher first; a point is worth an hour in line")
      ->check(CLI::Range(-1000, 1000).description(""))
      ->option_text("N");
  command.add_option("--after", options.after, "only after this run has succeeded (repeatable)")
      ->allow_extra_args(false)
      ->option_text("RUN");
  command.add_flag("--hold", options.hold, "wait until 'lockstep runs update RUN --release'");
  command.add_option("--time-limit", options.time_limit, "of an attempt, such as 90s, 30m, 2h")
      ->check(not_empty())
      ->option_text("TIME");
  command
      .add_option("--max-restarts", options.max_restarts,
                  "attempts that failures may cost; 0: none; default: the coordinator's")
      ->check(CLI::Range(-1, 1000).description(""))
      ->option_text("N");
}

}  // namespace

void add_submit_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("submit", "hand a run to the coordinator");
  auto options = std::make_shared<SubmitOptions>();
  add_what_options(*command, *options);
  add_when_options(*command, *options);
  CLI::Option* follow =
      command->add_flag("-f,--follow", options->follow,
                        "follow its logs until it has ended; Ctrl-C leaves it running");
  command
      ->add_flag(
          "-w,--wait", options->wait,
          "wait until it has ended; its verdict is the exit code, and Ctrl-C leaves it running")
      ->excludes(follow);
  command->add_flag("--dry-run", options->dry_run,
                    "check everything and say what would happen, but submit nothing");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    return submit(*options, client, context);
  });
}

}  // namespace lockstep::launcher
