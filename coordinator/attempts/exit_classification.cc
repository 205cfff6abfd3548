#include "coordinator/attempts/exit_classification.h"

#include <fmt/format.h>
#include <string.h>
#include <sys/wait.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "coordinator/attempts/attempt_files.h"
#include "core/error.h"

namespace lockstep::coordinator {

namespace {

constexpr int kDone = 0;
constexpr int kLost = static_cast<int>(core::ErrorKind::kCommunication);
constexpr int kStopped = static_cast<int>(core::ErrorKind::kStopped);
constexpr int kCannotExecute = 127;
constexpr int kSignalBase = 128;  // mpirun's status for a rank that a signal ended
constexpr int kToldToEnd = 1;     // mpirun's status after a SIGTERM
constexpr std::size_t kLongestMessage = 4096;

// A rank's end in one code and one time.
struct Failure {
  const RankEnd* rank = nullptr;
  int code = -1;  // -1: a signal, or not known
  int signal = 0;
  std::int64_t time_ns = 0;

  bool recorded() const { return rank->record.has_value(); }
  bool is_consequence() const { return recorded() && code == kLost; }
};

Failure end_of(const RankEnd& rank) {
  Failure end;
  end.rank = &rank;
  end.time_ns = rank.end_ns;
  if (rank.record) {
    end.code = rank.record->exit_code;
    end.time_ns = rank.record->time_ns;
    // One that wrote that all is well may still be killed before it could leave.
    if (end.code != kDone || !rank.wait_status || !WIFSIGNALED(*rank.wait_status)) return end;
  }
  if (rank.wait_status && WIFEXITED(*rank.wait_status)) end.code = WEXITSTATUS(*rank.wait_status);
  if (rank.wait_status && WIFSIGNALED(*rank.wait_status)) {
    end.signal = WTERMSIG(*rank.wait_status);
    end.code = -1;
  }
  return end;
}

int launcher_code(const EndFacts& end) {
  return WIFSIGNALED(end.launcher_status) ? kSignalBase + WTERMSIG(end.launcher_status)
                                          : WEXITSTATUS(end.launcher_status);
}

// mpirun ends with the status of the first rank that failed, where nothing else tells.
void take_status_of_launcher(Failure& failure, const EndFacts& end) {
  if (failure.code >= 0 || failure.signal != 0 || WIFSIGNALED(end.launcher_status)) return;
  const int code = WEXITSTATUS(end.launcher_status);
  if (code > kSignalBase) {
    failure.signal = code - kSignalBase;
  } else if (code > 0) {
    failure.code = code;
  }
}

std::optional<Failure> earliest(const std::vector<Failure>& failures, auto condition) {
  std::optional<Failure> first;
  for (const Failure& failure : failures) {
    if (condition(failure) && (!first || failure.time_ns < first->time_ns)) first = failure;
  }
  return first;
}

std::optional<Failure> first_failure(const EndFacts& end) {
  std::vector<Failure> failures;
  for (const RankEnd& rank : end.ranks) {
    if (rank.pid == 0 && !rank.record) continue;  // nothing is known of it
    const Failure failure = end_of(rank);
    const bool unknown = failure.signal == 0 && failure.code < 0;
    const bool fine = failure.signal == 0 && (failure.code == kDone || failure.code == kStopped ||
                                              (unknown && end.launcher_status == kDone));
    const bool forced = end.forced_ns != 0 && failure.time_ns >= end.forced_ns;
    if (!fine && !forced) failures.push_back(failure);
  }
  const auto silent = earliest(failures, [](const Failure& f) { return !f.recorded(); });
  const auto record = earliest(failures, [](const Failure& f) { return f.recorded(); });
  const auto cause =
      earliest(failures, [](const Failure& f) { return f.recorded() && !f.is_consequence(); });
  // Records count milliseconds, cut off.
  if (silent && (!record || silent->time_ns < record->time_ns + kSecond / 1000)) return silent;
  if (cause) return cause;
  return record ? record : silent;
}

FailureCategory category_of_code(int code) {
  switch (code) {
    case kDone:
      return FailureCategory::kDone;
    case static_cast<int>(core::ErrorKind::kInternal):
      return FailureCategory::kInternal;
    case static_cast<int>(core::ErrorKind::kConfig):
      return FailureCategory::kConfig;
    case static_cast<int>(core::ErrorKind::kData):
      return FailureCategory::kData;
    case static_cast<int>(core::ErrorKind::kDiverged):
      return FailureCategory::kNumeric;
    case kLost:
      return FailureCategory::kCommunication;
    case static_cast<int>(core::ErrorKind::kOutOfMemory):
      return FailureCategory::kOom;
    case kStopped:
      return FailureCategory::kStopped;
    case kCannotExecute:
      return FailureCategory::kLaunch;
    default:
      return FailureCategory::kUserExit;
  }
}

std::string signal_text(int signal) {
  return fmt::format("signal {} ({})", signal, strsignal(signal));
}

std::string with_last_words(std::string message, const std::string& last_words) {
  if (!last_words.empty()) message += "; it last said: " + last_words;
  return message.substr(0, kLongestMessage);
}

std::string message_of(const Failure& failure, const EndFacts& end) {
  const RankEnd& rank = *failure.rank;
  if (failure.recorded() && failure.signal == 0) {
    return rank.record->message.substr(0, kLongestMessage);
  }
  const std::string where = fmt::format("rank {} on {}", rank.rank, rank.host);
  const std::string& words =
      rank.last_words.empty() ? end.ranks.front().last_words : rank.last_words;
  if (failure.signal != 0) {
    return with_last_words(where + " was ended by " + signal_text(failure.signal), words);
  }
  if (failure.code < 0) return with_last_words(where + " ended, and nothing tells why", words);
  return with_last_words(fmt::format("{} ended with exit code {}", where, failure.code), words);
}

void describe_failure(ExitInfo& exit, const Failure& failure, const EndFacts& end) {
  exit.failing_rank = failure.rank->rank;
  exit.host = failure.rank->host;
  exit.signal = failure.signal;
  exit.code = failure.code >= 0 ? failure.code : kLost;
  exit.message = message_of(failure, end);
  if (failure.signal != 0) {
    const bool memory = failure.signal == SIGKILL && end.out_of_memory;
    exit.category = memory ? FailureCategory::kOom : FailureCategory::kRankSignal;
    if (memory) exit.message = "the kernel ran out of memory: " + exit.message;
  } else {
    exit.category =
        failure.code < 0 ? FailureCategory::kRankSignal : category_of_code(failure.code);
    // The words of ENOSPC in the C locale, in which ranks run.
    const bool full = exit.message.find("No space left on device") != std::string::npos;
    if (exit.category == FailureCategory::kData && full) exit.category = FailureCategory::kDiskFull;
  }
}

// mpirun that is killed takes its ranks with it (they ask the kernel for that); one that is told to
// end (SIGTERM) kills them itself, a second later, and then ends with 1, not with 128 and the
// signal of a rank. Neither is a rank's failure. A rank that failed of itself before still is.
bool launcher_ended_ranks(const Failure& failure, const EndFacts& end) {
  constexpr std::int64_t kSeenLate = kSecond / 2;  // ends are seen in any order
  const bool killed = failure.signal == SIGKILL || failure.signal == SIGTERM;
  if (WIFSIGNALED(end.launcher_status)) {
    const bool before =
        end.launcher_end_ns == 0 || failure.time_ns + kSeenLate < end.launcher_end_ns;
    return !before && (killed || failure.is_consequence());
  }
  return !failure.recorded() && killed && WEXITSTATUS(end.launcher_status) == kToldToEnd;
}

// No rank failed of itself.
void describe_launcher(ExitInfo& exit, const EndFacts& end) {
  const bool started = std::any_of(end.ranks.begin(), end.ranks.end(),
                                   [](const RankEnd& rank) { return rank.pid != 0; });
  exit.code = kLost;
  if (WIFSIGNALED(end.launcher_status)) {
    exit.category = FailureCategory::kRankSignal;
    exit.signal = WTERMSIG(end.launcher_status);
    exit.message =
        with_last_words("mpirun was ended by " + signal_text(exit.signal), end.launcher_last_words);
    return;
  }
  if (exit.launcher_code == kToldToEnd && started) {
    exit.category = FailureCategory::kStopped;
    exit.code = kStopped;
    exit.message = with_last_words("mpirun was told to end from outside and ended its ranks",
                                   end.launcher_last_words);
    return;
  }
  exit.category = started ? FailureCategory::kCommunication : FailureCategory::kLaunch;
  exit.message = with_last_words(fmt::format("mpirun ended with {}{}", exit.launcher_code,
                                             started ? "" : " before any rank was started"),
                                 end.launcher_last_words);
}

bool all_ended_with(const EndFacts& end, int code) {
  return std::all_of(end.ranks.begin(), end.ranks.end(), [&](const RankEnd& rank) {
    const Failure failure = end_of(rank);
    return failure.code == code && failure.signal == 0;
  });
}

std::vector<RankExit> exits_of_ranks(const EndFacts& end) {
  std::vector<RankExit> exits;
  for (const RankEnd& rank : end.ranks) {
    const Failure failure = end_of(rank);
    RankExit exit;
    exit.rank = rank.rank;
    exit.host = rank.host;
    exit.pid = rank.pid;
    exit.code = failure.signal != 0 ? -1 : failure.code;
    exit.signal = failure.signal;
    exit.end_time_ns = failure.time_ns;
    if (rank.record) {
      exit.reason = rank.record->reason;
      exit.message = rank.record->message.substr(0, kLongestMessage);
    }
    exits.push_back(std::move(exit));
  }
  return exits;
}

void describe_stop(ExitInfo& exit, const EndFacts& end) {
  const bool own_cause = end.stop && end.stop->cause != FailureCategory::kUnspecified;
  exit.category = own_cause ? end.stop->cause : FailureCategory::kStopped;
  exit.code = kStopped;
  if (own_cause) exit.message = end.stop->message;
}

// What a rank says of its stop: why, at which step, and what was saved.
void quote_stop(ExitInfo& exit, const EndFacts& end) {
  for (const RankEnd& rank : end.ranks) {
    if (!exit.message.empty()) return;
    if (rank.record) exit.message = rank.record->message.substr(0, kLongestMessage);
  }
}

// The supervisor ended what did not stop by itself.
void describe_force(ExitInfo& exit, const EndFacts& end) {
  describe_stop(exit, end);
  exit.code = kLost;
  exit.signal = SIGKILL;
  if (!exit.message.empty()) return;
  exit.message = end.stop->force ? "killed on request"
                                 : fmt::format("did not stop within {:.0f} s and was killed",
                                               static_cast<double>(end.stop->grace_ns) / kSecond);
}

void describe_hang(ExitInfo& exit, const EndFacts& end) {
  describe_stop(exit, end);
  exit.code = kLost;
  exit.failing_rank = end.stuck_rank;
  for (const RankEnd& rank : end.ranks) {
    if (rank.rank == end.stuck_rank) exit.host = rank.host;
  }
  if (!end.stuck.empty()) {
    exit.message += (exit.message.empty() ? "" : ": ") + end.stuck.front();
  }
}

}  // namespace

std::optional<ExitRecordFile> read_exit_record(const std::string& output, int rank,
                                               std::int64_t since_ns) {
  const auto text = read_small_file(output, fmt::format("exit/rank-{:04}.json", rank), 1 << 16);
  if (!text) return std::nullopt;
  const nlohmann::json value = nlohmann::json::parse(*text, nullptr, false);
  if (!value.is_object()) return std::nullopt;
  try {
    ExitRecordFile record;
    record.pid = value.at("pid");
    record.exit_code = value.at("exit_code");
    record.reason = value.at("reason");
    record.message = value.at("message");
    record.step = value.at("step");
    // Written with milliseconds; the last one may have been rounded up.
    record.time_ns =
        static_cast<std::int64_t>(value.at("unix_time").get<double>() * 1000.0) * (kSecond / 1000);
    if (value.at("rank") != rank || record.time_ns < since_ns - kSecond / 100) return std::nullopt;
    return record;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

ExitInfo classify(const EndFacts& end) {
  ExitInfo exit;
  exit.launcher_code = launcher_code(end);
  exit.ranks = exits_of_ranks(end);
  for (const RankEnd& rank : end.ranks) {
    if (rank.record) exit.step = std::max(exit.step, rank.record->step);
  }
  std::optional<Failure> failure = first_failure(end);
  const bool hang = end.stop && end.stop->cause == FailureCategory::kHang;
  if (hang && (!failure || failure->time_ns >= end.stop_ns)) {
    describe_hang(exit, end);
  } else if (failure && launcher_ended_ranks(*failure, end)) {
    describe_launcher(exit, end);
  } else if (failure) {
    take_status_of_launcher(*failure, end);
    describe_failure(exit, *failure, end);
  } else if (end.stop && end.forced_ns != 0 && !all_ended_with(end, kStopped) &&
             !all_ended_with(end, kDone)) {
    describe_force(exit, end);
  } else if (exit.launcher_code == kDone && !all_ended_with(end, kStopped)) {
    exit.category = FailureCategory::kDone;
  } else if (exit.launcher_code == kStopped || all_ended_with(end, kStopped)) {
    describe_stop(exit, end);
    quote_stop(exit, end);
  } else {
    describe_launcher(exit, end);
  }
  return exit;
}

}  // namespace lockstep::coordinator
