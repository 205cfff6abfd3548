#include "launcher/commands/run_report.h"

#include <fmt/format.h>

#include <map>
#include <ostream>

#include "coordinator/client/follow.h"
#include "coordinator/client/text.h"
#include "launcher/commands/job_command.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;

namespace {

std::string progress_text(const v1::Run& run) {
  const v1::Progress& progress = run.progress();
  if (progress.total_steps() == 0) return "-";
  return fmt::format("{}/{}", progress.step(), progress.total_steps());
}

std::string loss_text(const v1::Run& run) {
  return run.progress().step() == 0 ? "-" : fmt::format("{:.4g}", run.progress().loss());
}

std::string age_text(const v1::Run& run) {
  return job::format_duration(job::now_ns() - job::to_ns(run.create_time()));
}

// State with what qualifies it.
std::string state_text(const v1::Run& run) {
  std::string text = state_word(run);
  if (run.state() == v1::Run::WAITING && run.hold()) text += " (held)";
  if (run.suspect()) text += " (silent)";
  if (const std::string word = intent_word(run); !word.empty()) text += " (" + word + ")";
  return text;
}

// Collects "name: value" lines of what is set.
class Details {
 public:
  explicit Details(std::ostream& out) : out_(out) {}

  void add(const std::string& name, const std::string& value) {
    if (value.empty() || value == "-") return;
    out_ << fmt::format("{:<18}{}\n", name, job::escape_for_terminal(value));
  }
  void add(const std::string& name, const google::protobuf::Timestamp& time) {
    add(name, job::format_time(time));
  }

 private:
  std::ostream& out_;
};

void add_request(Details& details, const v1::Run& run) {
  details.add("run", run.uid());
  details.add("name", run.display_name());
  details.add("owner", run.owner());
  std::string labels;
  for (const auto& [key, value] : std::map(run.labels().begin(), run.labels().end()))
    labels += fmt::format("{}{}={}", labels.empty() ? "" : ", ", key, value);
  details.add("labels", labels);
  details.add("notes", run.notes());
  details.add("priority", std::to_string(run.priority()));
  details.add("ranks", std::to_string(run.resources().ranks()));
  details.add("hosts", fmt::format("{}", fmt::join(run.resources().hosts(), ", ")));
  details.add("after", fmt::format("{}", fmt::join(run.after(), ", ")));
  if (run.time_limit().seconds() > 0) {
    details.add("time limit", job::format_duration(run.time_limit().seconds() * 1'000'000'000));
  }
  std::string variables;
  for (const auto& [name, value] : std::map(run.environment().begin(), run.environment().end()))
    variables += fmt::format("{}{}={}", variables.empty() ? "" : ", ", name, value);
  details.add("environment", variables);
  details.add("retry of", run.parent_run());
  details.add("output", run.output());
  details.add("config sha256", run.config_sha256());
}

void add_state(Details& details, const v1::Run& run) {
  details.add("state", state_text(run));
  details.add("because", run.state_message().empty() ? run.state_reason() : run.state_message());
  details.add("progress", progress_text(run));
  details.add("loss", loss_text(run));
  if (run.progress().tokens_per_second() > 0.0) {
    details.add("tokens/s", fmt::format("{:.0f}", run.progress().tokens_per_second()));
  }
  details.add("expected end", run.progress().eta_time());
  details.add("restarts", std::to_string(run.restart_count()));
  details.add("checkpoint", run.latest_checkpoint());
  details.add("last exit", exit_text(run.result()));
  details.add("left behind", run.cleanup_state());
  details.add("created", run.create_time());
  details.add("queued", run.queue_time());
  details.add("started", run.start_time());
  details.add("ended", run.end_time());
}

}  // namespace

void print_run_table(std::ostream& out, const v1::ListRunsResponse& runs) {
  job::Table table({"RUN", "NAME", "STATE", "PRIORITY", "RANKS", "STEP", "LOSS", "AGE", "OWNER"});
  for (const v1::Run& run : runs.runs()) {
    table.add({run.uid(), run.display_name(), state_text(run), std::to_string(run.priority()),
               std::to_string(run.resources().ranks()), progress_text(run), loss_text(run),
               age_text(run), run.owner()});
  }
  table.print(out, job::terminal_width());
}

void print_run_details(std::ostream& out, const v1::Run& run,
                       const v1::ListAttemptsResponse& attempts) {
  Details details(out);
  add_request(details, run);
  add_state(details, run);
  if (attempts.attempts().empty()) return;
  out << "\n";
  job::Table table({"ATTEMPT", "STATE", "PLACES", "STARTED", "ENDED", "EXIT"});
  for (const v1::Attempt& attempt : attempts.attempts()) {
    table.add({std::to_string(attempt.number()), v1::Attempt::State_Name(attempt.state()),
               placements_text(attempt.placements()), job::format_time(attempt.start_time()),
               job::format_time(attempt.end_time()), exit_text(attempt.exit())});
  }
  table.print(out, std::nullopt);
}

std::string exit_text(const v1::ExitInfo& exit) {
  if (exit.category() == v1::ExitInfo::CATEGORY_UNSPECIFIED) return "";
  const std::string& name = v1::ExitInfo::Category_Name(exit.category());
  std::string text = name.empty() ? std::to_string(static_cast<int>(exit.category())) : name;
  const bool failed =
      exit.category() != v1::ExitInfo::DONE && exit.category() != v1::ExitInfo::STOPPED;
  if (failed && exit.failing_rank() >= 0) {
    text += fmt::format(": rank {}", exit.failing_rank());
    if (!exit.host().empty()) text += " on " + exit.host();
  }
  if (!exit.message().empty()) text += ": " + exit.message();
  return text;
}

std::string placements_text(const google::protobuf::RepeatedPtrField<v1::Placement>& placements) {
  std::string text;
  for (const v1::Placement& placement : placements) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", placement.host(),
                        fmt::join(placement.slots(), ", "));
  }
  return text;
}

}  // namespace lockstep::launcher
