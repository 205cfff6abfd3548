#include "launcher/commands/metrics_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <sstream>

#include "coordinator/client/follow.h"
#include "coordinator/client/text.h"
#include "launcher/commands/job_command.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;
using job::JobExit;

namespace {

struct MetricsOptions : JobOptions {
  std::string run{};
  bool follow = false;
  std::vector<std::string> events{};
  std::int64_t first_step = 0;
  std::int64_t last_step = 0;
  std::int64_t tail = 0;
};

// "step 12: loss 3.21, norm 1.5": the members of an event as words.
std::string for_people(const std::string& line) {
  const auto json = nlohmann::ordered_json::parse(line, nullptr, false);
  if (!json.is_object()) return line;
  std::string text = json.value("event", "");
  if (json.contains("step")) text += " " + json["step"].dump();
  const char* between = ": ";
  for (const auto& [key, value] : json.items()) {
    if (key == "event" || key == "step" || value.is_structured() || value.is_null()) continue;
    text += between + key + " ";
    text += value.is_number_float() ? fmt::format("{:.5g}", value.get<double>())
            : value.is_string()     ? value.get<std::string>()
                                    : value.dump();
    between = ", ";
  }
  return text;
}

void show(CommandContext& context, std::optional<job::DocumentList>& documents,
          const v1::MetricsChunk& chunk) {
  if (chunk.cut_back()) {
    context.err << "lockstep: the run went back to a checkpoint; steps after it come again"
                << std::endl;
  }
  std::istringstream lines(chunk.lines());
  for (std::string line; std::getline(lines, line);) {
    if (documents) {
      documents->add_json(line);
    } else {
      context.out << job::escape_for_terminal(for_people(line)) << "\n";
    }
  }
  context.out.flush();
}

JobExit read(const MetricsOptions& options, job::Client& client, CommandContext& context) {
  v1::ReadMetricsRequest request;
  request.set_name(options.run);
  request.set_follow(options.follow);
  request.mutable_events()->Add(options.events.begin(), options.events.end());
  request.set_first_step(options.first_step);
  request.set_last_step(options.last_step);
  request.set_tail_lines(options.tail);
  return detachable(client, context, options.run, [&] {
    const auto talk = [&](const std::string& text) {
      context.err << "lockstep: " << text << std::endl;
    };
    std::optional<job::DocumentList> documents;
    if (const auto form = document_form(options.format)) documents.emplace(context.out, *form);
    const auto run = job::read_all_metrics(
        client, request, [&](const v1::MetricsChunk& chunk) { show(context, documents, chunk); },
        talk);
    return options.follow && run ? tell_verdict(context, *run) : JobExit::kOk;
  });
}

}  // namespace

void add_metrics_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("metrics", "show the metrics of a run");
  auto options = std::make_shared<MetricsOptions>();
  add_run_argument(*command, options->run);
  command->add_flag("-f,--follow", options->follow,
                    "go on until the run has ended, and end with its verdict as exit code");
  command->add_option("--event", options->events, "only these: step, validation, ... (repeatable)")
      ->allow_extra_args(false)
      ->option_text("NAME");
  const auto number = CLI::Range(std::int64_t{1}, std::int64_t{1} << 40).description("");
  command->add_option("--from-step", options->first_step, "first step")
      ->check(number)
      ->option_text("N");
  command->add_option("--to-step", options->last_step, "last step")
      ->check(number)
      ->option_text("N");
  command->add_option("--tail", options->tail, "only the last lines")
      ->check(number)
      ->option_text("N");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    return read(*options, client, context);
  });
}

}  // namespace lockstep::launcher
