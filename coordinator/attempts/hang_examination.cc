#include "coordinator/attempts/hang_examination.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "comm/flight_log.h"
#include "comm/flight_recorder.h"
#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/process.h"
#include "core/error.h"

namespace lockstep::coordinator {

namespace {

std::string kernel_side(std::int64_t pid) {
  std::string text;
  for (const char* name : {"status", "wchan", "syscall", "stack"}) {
    text += fmt::format("--- {}\n{}\n", name, read_proc(static_cast<pid_t>(pid), name));
  }
  return text;
}

std::vector<comm::FlightLog> flight_logs(
    const std::string& output, const std::vector<std::pair<int, std::int64_t>>& processes) {
  std::vector<comm::FlightLog> logs;
  for (const auto& [rank, pid] : processes) {
    try {
      comm::FlightLog log = comm::read_flight_log(comm::flight_file(output, rank));
      if (log.pid == pid) logs.push_back(std::move(log));
    } catch (const core::Error&) {
      // It has none yet, or it is of an attempt before this one.
    }
  }
  return logs;
}

// The rank that has entered the fewest collectives, if others have entered more.
int last_rank(const std::vector<comm::FlightLog>& logs) {
  const auto less = [](const comm::FlightLog& a, const comm::FlightLog& b) {
    return a.last_entered() < b.last_entered();
  };
  const auto [low, high] = std::minmax_element(logs.begin(), logs.end(), less);
  return low == logs.end() || low->last_entered() == high->last_entered() ? -1 : low->rank;
}

}  // namespace

HangFinding examine_hang(const std::string& directory, const std::string& output,
                         const std::vector<std::pair<int, std::int64_t>>& processes) {
  HangFinding finding;
  std::string dump;
  int stopped = -1;
  const std::vector<comm::FlightLog> logs = flight_logs(output, processes);
  finding.stuck = comm::diagnose(logs);
  finding.rank = last_rank(logs);
  for (const auto& [rank, pid] : processes) {
    const std::optional<ProcessStat> stat = read_stat(static_cast<pid_t>(pid));
    const char state = stat ? stat->state : '?';
    if (state == 'T' || state == 't') {
      finding.stuck.push_back(fmt::format("rank {} (pid {}) is stopped by a signal", rank, pid));
      stopped = rank;
    } else if (state == 'D') {
      finding.stuck.push_back(fmt::format("rank {} (pid {}) waits for a device", rank, pid));
    }
    dump += fmt::format("=== rank {} (pid {}), state {}\n{}", rank, pid, state, kernel_side(pid));
  }
  if (finding.rank < 0) finding.rank = stopped;
  for (const std::string& sentence : finding.stuck)
    dump += sentence + "\n";
  write_file(directory, "stacks.txt", dump, false);
  return finding;
}

}  // namespace lockstep::coordinator
