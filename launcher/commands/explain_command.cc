#include "launcher/commands/explain_command.h"

#include <fmt/format.h>

#include <memory>
#include <ostream>

#include "coordinator/client/text.h"
#include "launcher/commands/job_command.h"
#include "launcher/commands/run_report.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;
using job::JobExit;

namespace {

struct ExplainOptions : JobOptions {
  std::string run{};
};

void print_failure(std::ostream& out, const v1::FailureReport& failure) {
  const auto line = [&out](const std::string& text) {
    out << "  " << job::escape_for_terminal(text) << "\n";
  };
  line(exit_text(failure.exit()));
  for (const v1::RankExit& rank : failure.exit().ranks()) {
    line(fmt::format("rank {} on {}: {}{}{}", rank.rank(), rank.host(),
                     rank.signal() != 0 ? fmt::format("signal {}", rank.signal())
                     : rank.code() >= 0 ? fmt::format("exit {}", rank.code())
                                        : "end unknown",
                     rank.message().empty() ? "" : ": ", rank.message()));
  }
  for (const std::string& sentence : failure.stuck())
    line(sentence);
  if (!failure.advice().empty()) line(failure.advice());
  if (failure.retry_planned()) line("It will be tried again.");
}

void print_explanation(std::ostream& out, const v1::ExplainRunResponse& answer) {
  constexpr int kMostAhead = 5;
  // The summary of a run that waits may be no more than its first reason.
  const bool reasons_say_it =
      answer.reasons_size() > 0 && answer.reasons(0).message() == answer.summary();
  out << answer.run().name() << " " << state_word(answer.run());
  if (!reasons_say_it) out << ": " << job::escape_for_terminal(answer.summary());
  out << "\n";
  for (const v1::PendingReason& reason : answer.reasons()) {
    out << fmt::format("  {}: {}\n", reason.reason(), job::escape_for_terminal(reason.message()));
  }
  for (int i = 0; i < std::min(answer.runs_ahead_size(), kMostAhead); ++i)
    out << "  before it: " << answer.runs_ahead(i) << "\n";
  if (answer.runs_ahead_size() > kMostAhead) {
    out << fmt::format("  and {} more\n", answer.runs_ahead_size() - kMostAhead);
  }
  if (answer.has_start_estimate_time()) {
    out << "  starts by " << job::format_time(answer.start_estimate_time()) << " at the latest, "
        << "if nothing with a higher priority comes\n";
  }
  if (answer.has_failure()) print_failure(out, answer.failure());
}

}  // namespace

void add_explain_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("explain", "say why a run waits, or why it ended");
  auto options = std::make_shared<ExplainOptions>();
  add_run_argument(*command, options->run);
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    v1::ExplainRunRequest request;
    request.set_name(options->run);
    const v1::ExplainRunResponse answer = client.explain_run(request);
    if (print_document(context, options->format, answer)) return JobExit::kOk;
    if (options->format == JobFormat::kName) {
      for (const v1::PendingReason& reason : answer.reasons())
        context.out << reason.reason() << "\n";
    } else {
      print_explanation(context.out, answer);
    }
    return JobExit::kOk;
  });
}

}  // namespace lockstep::launcher
