#include "launcher/commands/report_command.h"

#include <fmt/format.h>

#include <memory>
#include <ostream>

#include "core/counted.h"
#include "runtime/files/write_file.h"
#include "runtime/report/page.h"
#include "runtime/report/report_data.h"

namespace lockstep::launcher {
namespace {

struct ReportOptions {
  std::vector<std::string> runs;
  std::string output = "report.html";
};

int report(const ReportOptions& options, std::ostream& err) {
  std::vector<runtime::ReportRun> runs = runtime::open_runs(options.runs);
  for (runtime::ReportRun& run : runs)
    run.refresh();
  runtime::require_steps(runs);
  for (runtime::ReportRun& run : runs)
    run.examine();
  const std::string page = runtime::report_page(runtime::report_json(runs, {}));
  runtime::replace_file(options.output, page);
  err << fmt::format("{}: {}, {} KiB; open it in a browser\n", options.output,
                     core::counted(static_cast<std::int64_t>(runs.size()), "run"),
                     page.size() / 1024);
  return 0;
}

}  // namespace

void add_report_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "report", "write a page with the curves, decisions and figures of runs, for a browser");
  auto options = std::make_shared<ReportOptions>();
  command->add_option("runs", options->runs, "output directories of runs, finished or in progress")
      ->required()
      ->option_text("RUN...");
  command->add_option("--output", options->output, "the file to write (default report.html)")
      ->check(not_empty())
      ->option_text("FILE");
  set_action(*command, context, [options, &context] { return report(*options, context.err); });
}

}  // namespace lockstep::launcher
