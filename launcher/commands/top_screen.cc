#include "launcher/commands/top_screen.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ostream>
#include <sstream>
#include <tuple>

#include "coordinator/client/text.h"
#include "launcher/commands/job_command.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;

namespace {

constexpr int kBar = 20;
constexpr std::int64_t kHourNs = std::int64_t{3600} * 1'000'000'000;

int order_of(v1::Run::State state) {
  switch (state) {
    case v1::Run::RUNNING:
      return 0;
    case v1::Run::STOPPING:
      return 1;
    case v1::Run::STARTING:
      return 2;
    case v1::Run::QUEUED:
      return 3;
    case v1::Run::BACKOFF:
      return 4;
    case v1::Run::PAUSED:
      return 5;
    default:
      return 6;
  }
}

std::int64_t place_of(const v1::Run& run) {
  const auto& time = run.state() == v1::Run::QUEUED ? run.queue_time() : run.create_time();
  return job::to_ns(time) - run.priority() * kHourNs;
}

std::string rate_text(double tokens_per_second) {
  if (!(tokens_per_second > 0.0)) return "-";
  if (tokens_per_second < 1e4) return fmt::format("{:.0f}", tokens_per_second);
  if (tokens_per_second < 1e7) return fmt::format("{:.1f}k", tokens_per_second / 1e3);
  return fmt::format("{:.1f}M", tokens_per_second / 1e6);
}

bool is_training(const v1::Run& run) {
  return run.state() == v1::Run::RUNNING;
}

std::string totals(const TopView& view) {
  int slots = 0, leased = 0;
  for (const v1::Host& host : view.hosts) {
    slots += host.slots_size();
    for (const v1::Slot& slot : host.slots())
      leased += slot.run().empty() ? 0 : 1;
  }
  double rate = 0.0;
  int training = 0, queued = 0;
  for (const v1::Run& run : view.runs) {
    training += is_training(run) ? 1 : 0;
    queued += run.state() == v1::Run::QUEUED ? 1 : 0;
    if (is_training(run) && std::isfinite(run.progress().tokens_per_second())) {
      rate += run.progress().tokens_per_second();
    }
  }
  return fmt::format("{}  {} running, {} queued, {} others; {} of {} slots leased; {} tokens/s",
                     job::format_time(job::to_timestamp(view.now_ns)), training, queued,
                     static_cast<int>(view.runs.size()) - training - queued, leased, slots,
                     rate_text(rate));
}

job::Table table_of_hosts(const TopView& view) {
  job::Table table({"HOST", "KIND", "LEASED", "", "DRAINED"});
  for (const v1::Host& host : view.hosts) {
    int leased = 0;
    for (const v1::Slot& slot : host.slots())
      leased += slot.run().empty() ? 0 : 1;
    const double part =
        host.slots().empty() ? 0.0 : static_cast<double>(leased) / host.slots_size();
    table.add({host.name(), host.kind(), fmt::format("{}/{}", leased, host.slots_size()),
               progress_bar(part, kBar),
               host.drained() ? (host.drain_reason().empty() ? "yes" : host.drain_reason()) : ""});
  }
  return table;
}

std::vector<std::string> row_of(const v1::Run& run, std::int64_t now_ns) {
  const v1::Progress& progress = run.progress();
  const bool known = progress.total_steps() > 0;
  const double part =
      known ? static_cast<double>(progress.step()) / static_cast<double>(progress.total_steps())
            : 0.0;
  const std::int64_t eta = job::to_ns(progress.eta_time());
  std::string state = state_word(run);
  if (const std::string word = intent_word(run); !word.empty()) state += " (" + word + ")";
  if (run.suspect()) state += " (silent)";
  return {run.uid(),
          run.display_name(),
          state,
          std::to_string(run.resources().ranks()),
          known ? fmt::format("{}/{}", progress.step(), progress.total_steps()) : "-",
          known ? fmt::format("{} {:3.0f} %", progress_bar(part, kBar), 100.0 * part) : "",
          is_training(run) ? rate_text(progress.tokens_per_second()) : "-",
          progress.step() > 0 ? fmt::format("{:.4g}", progress.loss()) : "-",
          is_training(run) && eta > now_ns ? job::format_duration(eta - now_ns) : "-",
          job::format_duration(now_ns - job::to_ns(run.create_time()))};
}

}  // namespace

void put_in_line(std::vector<v1::Run>& runs) {
  std::stable_sort(runs.begin(), runs.end(), [](const v1::Run& a, const v1::Run& b) {
    return std::tuple(order_of(a.state()), place_of(a), a.uid()) <
           std::tuple(order_of(b.state()), place_of(b), b.uid());
  });
}

std::string progress_bar(double part, int width) {
  const double inside = std::isfinite(part) ? std::clamp(part, 0.0, 1.0) : 0.0;
  const auto filled = static_cast<std::size_t>(inside * width);
  return "[" + std::string(filled, '#') +
         std::string(static_cast<std::size_t>(width) - filled, '-') + "]";
}

void print_top(std::ostream& out, const TopView& view, std::optional<int> width, int lines) {
  std::ostringstream head;
  job::Table first({totals(view)});
  first.print(head, width);
  head << "\n";
  table_of_hosts(view).print(head, width);
  head << "\n";
  const std::string above = head.str();
  out << above;
  job::Table table(
      {"RUN", "NAME", "STATE", "RANKS", "STEP", "PROGRESS", "TOKENS/S", "LOSS", "LEFT", "AGE"});
  const auto used = std::count(above.begin(), above.end(), '\n') + 2;  // and the table's own head
  const std::size_t room =
      lines == 0 ? view.runs.size()
                 : static_cast<std::size_t>(std::max<std::int64_t>(1, std::int64_t{lines} - used));
  const std::size_t shown = view.runs.size() <= room ? view.runs.size() : room - 1;
  for (std::size_t i = 0; i < shown; ++i)
    table.add(row_of(view.runs[i], view.now_ns));
  table.print(out, width);
  if (shown < view.runs.size()) out << fmt::format("and {} more\n", view.runs.size() - shown);
}

}  // namespace lockstep::launcher
