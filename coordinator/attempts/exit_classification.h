#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/attempts/attempt_host.h"

namespace lockstep::coordinator {

// OUTPUT/exit/rank-0000.json as the rank left it (launcher/exit_record.h).
struct ExitRecordFile {
  std::int64_t pid = 0;
  int exit_code = 0;
  std::string reason;
  std::string message;
  std::int64_t step = 0;
  std::int64_t time_ns = 0;
};
// Nothing if there is none, it cannot be read, or it is older than `since_ns` (of an attempt before
// this one). Ranks write these: nothing in them is trusted but as words.
std::optional<ExitRecordFile> read_exit_record(const std::string& output, int rank,
                                               std::int64_t since_ns);

// All that is known of how one rank ended.
struct RankEnd {
  int rank = 0;
  std::string host;
  std::int64_t pid = 0;            // 0: never seen: on another host, or not started
  std::int64_t end_ns = 0;         // its process was seen to end; 0: not seen
  std::optional<int> wait_status;  // as waitpid gives it
  std::optional<ExitRecordFile> record;
  std::string last_words;  // the end of its standard error
};

// Of the whole attempt.
struct EndFacts {
  std::vector<RankEnd> ranks;  // all, by rank
  int launcher_status = 0;     // of mpirun, as waitpid gives it
  std::int64_t launcher_end_ns = 0;
  std::string launcher_last_words;
  bool out_of_memory = false;  // the kernel ended processes for want of memory meanwhile
  std::optional<StopRequest> stop;
  std::int64_t stop_ns = 0;    // when it came
  std::int64_t forced_ns = 0;  // the first signal that ends a rank; 0: none was sent
  std::vector<std::string> stuck;
  int stuck_rank = -1;
};

// How the attempt ended, and of what. Pure.
//
// The first failing rank is found like this: a rank that ended without a record before any other
// failed was killed or crashed, and took the others down. Otherwise it is the earliest record of a
// failure that is not "lost a peer" (those are consequences), else the earliest one of these, else
// the earliest end. Ends after the supervisor began to kill are no failures.
ExitInfo classify(const EndFacts& end);

}  // namespace lockstep::coordinator
