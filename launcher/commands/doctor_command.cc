#include "launcher/commands/doctor_command.h"

#include <algorithm>
#include <memory>
#include <ostream>
#include <string>

#include "runtime/health/doctor.h"

namespace lockstep::launcher {
namespace {

struct DoctorOptions {
  std::string run;
  OutputFormat format = OutputFormat::kTable;
};

// Exit code 0: nothing worse than info; 1: something is.
int examine(const DoctorOptions& options, std::ostream& out) {
  const runtime::RunHistory history = runtime::read_run_history(options.run);
  const std::vector<runtime::Finding> findings = runtime::diagnose(history);
  if (options.format == OutputFormat::kJson) {
    out << runtime::to_json(history, findings) << "\n";
  } else {
    out << runtime::to_text(history, findings);
  }
  const bool ill = std::any_of(findings.begin(), findings.end(), [](const auto& finding) {
    return finding.severity > runtime::Severity::kInfo;
  });
  return ill ? 1 : 0;
}

}  // namespace

void add_doctor_command(CLI::App& app, CommandContext& context) {
  CLI::App* command =
      app.add_subcommand("doctor", "say what a run suffers from, why, and what to change");
  auto options = std::make_shared<DoctorOptions>();
  command->add_option("run", options->run, "a run's output directory, also while it runs")
      ->required()
      ->option_text("RUN");
  add_output_option(*command, options->format);
  set_action(*command, context, [options, &context] { return examine(*options, context.out); });
}

}  // namespace lockstep::launcher
