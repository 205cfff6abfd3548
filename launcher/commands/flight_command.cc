#include "launcher/commands/flight_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "comm/flight_log.h"
#include "comm/flight_recorder.h"
#include "core/counted.h"

namespace lockstep::launcher {
namespace {

using comm::FlightEntry;
using comm::FlightLog;
using Json = nlohmann::ordered_json;

struct FlightOptions {
  std::string run;
  std::size_t last = 0;
  OutputFormat format = OutputFormat::kTable;
};

struct Flight {
  std::vector<FlightLog> logs;        // by rank
  std::vector<std::string> problems;  // files that are missing or cannot be used
};

std::vector<std::string> flight_files(const std::string& run) {
  const std::string folder = run + "/flight";
  std::vector<std::string> files;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failure))
    files.push_back(entry.path().string());
  if (failure || files.empty()) {
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: {}; expected the output directory of a run, with a "
                                  "flight/rank-0000.bin in it",
                                  folder, failure ? failure.message() : "no files"));
  }
  std::sort(files.begin(), files.end());
  return files;
}

void check_complete(const std::string& run, Flight& flight) {
  for (int rank = 0; rank < flight.logs.front().world_size; ++rank) {
    const std::string file = comm::flight_file(run, rank);
    if (std::filesystem::exists(file)) continue;
    flight.problems.push_back(fmt::format("{}: not there, but the run has {}", file,
                                          core::counted(flight.logs.front().world_size, "rank")));
    return;
  }
}

Flight read_flight(const std::string& run) {
  Flight flight;
  for (const std::string& file : flight_files(run)) {
    try {
      FlightLog log = comm::read_flight_log(file);
      if (file != comm::flight_file(run, log.rank)) {
        throw core::Error(core::ErrorKind::kData,
                          fmt::format("{}: it holds rank {}", file, log.rank));
      }
      const bool fits = flight.logs.empty() || (log.attempt == flight.logs.front().attempt &&
                                                log.world_size == flight.logs.front().world_size);
      if (!fits) {
        throw core::Error(core::ErrorKind::kData,
                          fmt::format("{}: of attempt {} with {}, but rank {} is of attempt "
                                      "{} with {}",
                                      file, log.attempt, core::counted(log.world_size, "rank"),
                                      flight.logs.front().rank, flight.logs.front().attempt,
                                      flight.logs.front().world_size));
      }
      flight.logs.push_back(std::move(log));
    } catch (const core::Error& error) {
      flight.problems.push_back(error.what());
    }
  }
  if (!flight.logs.empty()) check_complete(run, flight);
  return flight;
}

// "23:04:11.125" UTC
std::string clock_text(std::int64_t unix_ns) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  constexpr std::int64_t kDay = 86400 * kSecond;
  const std::int64_t ns = (unix_ns % kDay + kDay) % kDay;
  return fmt::format("{:02}:{:02}:{:02}.{:03}", ns / (3600 * kSecond), ns / (60 * kSecond) % 60,
                     ns / kSecond % 60, ns / 1'000'000 % 1000);
}

std::string entry_text(const FlightEntry& entry) {
  if (!entry.completed) {
    return fmt::format("{}, {} bytes, entered {}, pending", entry.name(), entry.bytes,
                       clock_text(entry.entered_ns));
  }
  const double milliseconds =
      (static_cast<double>(entry.completed_ns) - static_cast<double>(entry.entered_ns)) * 1e-6;
  return fmt::format("{}, {} bytes, entered {}, took {:.3f} ms", entry.name(), entry.bytes,
                     clock_text(entry.entered_ns), milliseconds);
}

std::size_t first_listed(const FlightLog& log, std::size_t last) {
  return log.entries.size() - std::min(last, log.entries.size());
}

void print_rank(const FlightLog& log, std::size_t last, std::ostream& out) {
  const FlightEntry* completed = log.last_completed();
  const FlightEntry* pending = log.first_pending();
  out << fmt::format("rank {} (host {}, pid {}), last seen {}\n", log.rank, log.host, log.pid,
                     clock_text(log.seen_ns));
  out << "  last completed: " << (completed == nullptr ? "nothing" : entry_text(*completed))
      << "\n";
  if (pending != nullptr) out << "  first pending:  " << entry_text(*pending) << "\n";
  if (log.torn > 0) {
    out << fmt::format("  {} record{} torn or damaged, left out\n", log.torn,
                       log.torn == 1 ? "" : "s");
  }
  for (std::size_t i = first_listed(log, last); i < log.entries.size(); ++i)
    out << "    " << entry_text(log.entries[i]) << "\n";
}

void print_table(const Flight& flight, std::size_t last, std::ostream& out) {
  const FlightLog& first = flight.logs.front();
  out << fmt::format("attempt {}, {} rank{}; times are UTC\n", first.attempt, first.world_size,
                     first.world_size == 1 ? "" : "s");
  for (const FlightLog& log : flight.logs)
    print_rank(log, last, out);
  const std::vector<std::string> findings = comm::diagnose(flight.logs);
  for (const std::string& finding : findings)
    out << finding << "\n";
  if (findings.empty()) out << "all of these ranks have completed the same collectives\n";
}

Json entry_json(const FlightEntry* entry) {
  if (entry == nullptr) return nullptr;
  Json json = {{"sequence", entry->sequence},
               {"operation", comm::name_of(entry->collective)},
               {"label", entry->label},
               {"bytes", entry->bytes},
               {"state", entry->completed ? "completed" : "entered"},
               {"entered_ns", entry->entered_ns}};
  json["completed_ns"] = entry->completed ? Json(entry->completed_ns) : Json(nullptr);
  return json;
}

Json to_json(const Flight& flight, std::size_t last) {
  Json ranks = Json::array();
  for (const FlightLog& log : flight.logs) {
    Json rank = {{"rank", log.rank},
                 {"host", log.host},
                 {"pid", log.pid},
                 {"last_seen_ns", log.seen_ns},
                 {"last_completed", entry_json(log.last_completed())},
                 {"pending", entry_json(log.first_pending())},
                 {"torn_records", log.torn}};
    Json records = Json::array();
    for (std::size_t i = first_listed(log, last); i < log.entries.size(); ++i)
      records.push_back(entry_json(&log.entries[i]));
    rank["records"] = std::move(records);
    ranks.push_back(std::move(rank));
  }
  return {{"attempt", flight.logs.front().attempt},
          {"world_size", flight.logs.front().world_size},
          {"ranks", std::move(ranks)},
          {"findings", comm::diagnose(flight.logs)}};
}

// What can be read is shown also when some files cannot; the exit code then says so.
int show_flight(const FlightOptions& options, std::ostream& out) {
  const Flight flight = read_flight(options.run);
  if (!flight.logs.empty()) {
    if (options.format == OutputFormat::kJson) {
      out << to_json(flight, options.last).dump() << "\n";
    } else {
      print_table(flight, options.last, out);
    }
  }
  if (flight.problems.empty()) return 0;
  throw core::Error(core::ErrorKind::kData, fmt::format("{}", fmt::join(flight.problems, "\n")));
}

}  // namespace

void add_flight_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "flight", "show the last collectives of every rank, also of a run that was killed");
  auto options = std::make_shared<FlightOptions>();
  command->add_option("run", options->run, "the run's output directory")
      ->required()
      ->option_text("RUN");
  command->add_option("--last", options->last, "also list this many collectives of each rank")
      ->option_text("N");
  add_output_option(*command, options->format);
  set_action(*command, context, [options, &context] { return show_flight(*options, context.out); });
}

}  // namespace lockstep::launcher
