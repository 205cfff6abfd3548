#include "launcher/commands/top_command.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <memory>
#include <ostream>
#include <sstream>

#include "coordinator/client/interrupt.h"
#include "coordinator/client/text.h"
#include "core/error.h"
#include "launcher/commands/job_command.h"
#include "launcher/commands/top_screen.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;
using job::JobExit;

namespace {

struct TopOptions : JobOptions {
  std::string every = "1s";
  bool once = false;
};

constexpr const char* kLive =
    "state = RUNNING OR state = STOPPING OR state = STARTING OR state = QUEUED OR "
    "state = BACKOFF OR state = PAUSED OR state = WAITING";

TopView look(job::Client& client) {
  TopView view;
  v1::ListRunsRequest request;
  request.set_filter(kLive);
  request.set_page_size(500);
  do {
    const v1::ListRunsResponse page = client.list_runs(request);
    view.runs.insert(view.runs.end(), page.runs().begin(), page.runs().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  const v1::ListHostsResponse hosts = client.list_hosts();
  view.hosts.assign(hosts.hosts().begin(), hosts.hosts().end());
  view.now_ns = job::now_ns();
  put_in_line(view.runs);
  return view;
}

// {"hosts": [...], "runs": [...]}: one document a look.
std::string document_of(const TopView& view, job::DocumentForm form) {
  std::string text = "{\"hosts\":[";
  for (std::size_t i = 0; i < view.hosts.size(); ++i)
    text += (i > 0 ? "," : "") + job::to_json(view.hosts[i]);
  text += "],\"runs\":[";
  for (std::size_t i = 0; i < view.runs.size(); ++i)
    text += (i > 0 ? "," : "") + job::to_json(view.runs[i]);
  text += "]}";
  return form == job::DocumentForm::kYaml ? job::to_yaml(text) : text + "\n";
}

int terminal_lines() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 ? size.ws_row : 24;
}

void show(const TopView& view, JobFormat format, CommandContext& context, bool redraw) {
  if (const auto form = document_form(format)) {
    context.out << document_of(view, *form) << std::flush;
    return;
  }
  if (format == JobFormat::kName) {
    for (const v1::Run& run : view.runs)
      context.out << run.name() << "\n";
    context.out << std::flush;
    return;
  }
  std::ostringstream screen;
  if (redraw) screen << "\x1b[H\x1b[J";  // to the first line, and everything below it away
  print_top(screen, view, job::terminal_width(), redraw ? terminal_lines() : 0);
  context.out << screen.str() << std::flush;
}

// Once, or until Ctrl-C.
JobExit top(const TopOptions& options, job::Client& client, CommandContext& context) {
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  const bool once = options.once || !terminal;
  const auto every = job::parse_duration(options.every);
  const std::chrono::milliseconds pause(every.seconds() * 1000 + every.nanos() / 1'000'000);
  if (pause.count() < 100) {
    throw core::Error(core::ErrorKind::kConfig, "--every: expected at least 0.1s");
  }
  const job::Interrupt interrupt([&client] { client.interrupt(); });
  try {
    while (true) {
      show(look(client), options.format, context, !once && options.format == JobFormat::kTable);
      if (once) return JobExit::kOk;
      client.pause(pause);
    }
  } catch (const job::Interrupted&) {
    return JobExit::kOk;
  }
}

}  // namespace

void add_top_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "top", "the line of runs and the hosts, live on a terminal; else as they are now");
  auto options = std::make_shared<TopOptions>();
  command->add_option("--every", options->every, "how often to look")
      ->check(not_empty())
      ->option_text("TIME")
      ->capture_default_str();
  command->add_flag("--once", options->once, "look once and end");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    return top(*options, client, context);
  });
}

}  // namespace lockstep::launcher
