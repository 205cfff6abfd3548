#include "launcher/launch_verdict.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace lockstep::launcher {

namespace {

using coordinator::ExitRecordFile;
using core::ErrorKind;

constexpr int kLost = static_cast<int>(ErrorKind::kCommunication);
constexpr int kStopped = static_cast<int>(ErrorKind::kStopped);
constexpr int kConfig = static_cast<int>(ErrorKind::kConfig);
constexpr int kSignalBase = 128;
constexpr int kCannotExecute = 127;

std::string with_kind(ErrorKind kind, const std::string& text) {
  return fmt::format("{}: {}", core::describe(kind), text);
}

std::string stopped(const std::string& what) {
  return with_kind(ErrorKind::kStopped, what);
}

// "exit status 213", "signal 9 (Killed)"
std::string status_text(int status) {
  if (!WIFSIGNALED(status)) return fmt::format("exit status {}", WEXITSTATUS(status));
  return fmt::format("signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
}

LaunchVerdict never_started(const LaunchFacts& facts) {
  if (facts.stop_signal != 0) {
    return {kStopped, stopped("before any rank had started; nothing was trained")};
  }
  if (WIFSIGNALED(facts.mpirun_status)) {
    return {kLost, with_kind(ErrorKind::kCommunication,
                             fmt::format("mpirun was ended by {} before any rank had started",
                                         status_text(facts.mpirun_status)))};
  }
  if (WEXITSTATUS(facts.mpirun_status) == kCannotExecute) {
    return {kConfig, with_kind(ErrorKind::kConfig,
                               "cannot start mpirun: install Open MPI (Debian: openmpi-bin), or "
                               "leave out --ranks to train with one rank")};
  }
  return {kConfig,
          with_kind(ErrorKind::kConfig,
                    fmt::format("mpirun started no rank ({}){}", status_text(facts.mpirun_status),
                                facts.spoke ? "; its own words are above" : ""))};
}

// The record that says most: of a rank that lost another, else of the lowest rank that failed.
const ExitRecordFile* telling(const std::vector<ExitRecordFile>& records) {
  const ExitRecordFile* found = nullptr;
  for (const ExitRecordFile& record : records) {
    if (record.exit_code == 0) continue;
    const bool better =
        found == nullptr || (record.exit_code == kLost && found->exit_code != kLost);
    if (better) found = &record;
  }
  return found;
}

// Messages of a stop begin with what it is.
std::string words_of(const ExitRecordFile& record) {
  if (record.message.starts_with(record.reason)) return record.message;
  return fmt::format("{}: {}", record.reason, record.message);
}

// Some ranks of this launch left no record.
LaunchVerdict incomplete(const LaunchFacts& facts) {
  const int status = facts.mpirun_status;
  if (facts.stop_signal != 0 && facts.records.empty()) {
    return {kStopped, stopped("while the ranks were starting; nothing was trained")};
  }
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
  if (facts.records.empty() && code > 0 && code <= kStopped) {
    // Before there is a run directory a rank can say it on stderr alone.
    return {code, facts.spoke ? ""
                              : fmt::format("{}: the ranks ended with exit code {}",
                                            core::describe(static_cast<ErrorKind>(code)), code)};
  }
  std::string what =
      WIFSIGNALED(status)
          ? fmt::format("mpirun was ended by {}, and the ranks with it", status_text(status))
          : std::string("a rank was lost");
  if (code > kSignalBase) {
    what = fmt::format("a rank was ended by signal {} ({})", code - kSignalBase,
                       strsignal(code - kSignalBase));
  }
  return {kLost, with_kind(ErrorKind::kCommunication, what + "; continue with --resume auto")};
}

}  // namespace

LaunchVerdict judge(const LaunchFacts& facts) {
  if (facts.at_once) {
    return {kStopped, stopped("ended at once by a second signal; what was trained since the last "
                              "checkpoint is lost; continue with --resume auto")};
  }
  const bool done = WIFEXITED(facts.mpirun_status) && WEXITSTATUS(facts.mpirun_status) == 0;
  if (facts.arrived == 0 && !done) return never_started(facts);
  const ExitRecordFile* record = telling(facts.records);
  if (record != nullptr && record->exit_code == kLost) {
    return {kLost, words_of(*record)};
  }
  if (done) return {0, ""};
  const bool complete = static_cast<int>(facts.records.size()) >= facts.ranks;
  if (!complete) return incomplete(facts);
  if (record == nullptr) return incomplete(facts);
  return {record->exit_code, words_of(*record)};
}

}  // namespace lockstep::launcher
