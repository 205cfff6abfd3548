#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/attempts/descriptor.h"

namespace lockstep::coordinator {

// Which of the logs of an attempt, and where to begin.
struct LogQuery {
  std::vector<int> ranks;  // empty: all, and the launcher (-1)
  bool out = true;
  bool err = true;
  std::int64_t since_ns = 0;    // lines that came at or after this time; 0: from the start
  std::int64_t tail_lines = 0;  // of each stream at most its last ones; 0: all
};

// Lines of one stream that came together.
struct LogPiece {
  int rank = 0;  // -1: the launcher
  bool err = false;
  std::int64_t time_ns = 0;  // of the first line
  std::string bytes;         // whole lines, unless one is longer than a piece; may be empty
  std::string cursor;        // to go on behind this piece
  std::int64_t dropped = 0;  // bytes in front of it that were not kept
  bool no_space = false;     // because the disk had no room; else because of the quota
};

// Reads the logs of one attempt, also while it runs. What comes is exact: per stream nothing is
// lost, doubled or reordered, and what was not kept is counted. Streams are merged by time. Follows
// no symbolic link. One thread at a time.
class LogReader {
 public:
  // cursor: of a piece of this attempt got earlier; the query must select the same streams, its
  // since_ns and tail_lines are then ignored. Throws Error(kConfig) for a cursor that is none, or
  // of another attempt; Error(kInternal) if the directory cannot be read. An attempt that has
  // written nothing yet is not an error.
  LogReader(const std::string& attempt_directory, int attempt_number, LogQuery query,
            const std::string& cursor = "");
  ~LogReader();
  LogReader(const LogReader&) = delete;
  LogReader& operator=(const LogReader&) = delete;

  static constexpr std::size_t kPieceBytes = 32 << 10;  // of a piece, at most

  // The next piece; nothing: that was all for now. Pass `ended` once the attempt was seen to have
  // ended before the call: then last lines without an end come too, and nothing is the end.
  std::optional<LogPiece> next(bool ended);

  // Where the reader stands.
  std::string cursor() const;
  // The attempt that a cursor belongs to; throws Error(kConfig) if it is none.
  static int attempt_of(const std::string& cursor);

 private:
  class Stream;
  void find_streams(bool first);
  void read_cursor(const std::string& cursor);
  bool selects(int rank, bool err) const;
  Stream* earliest(bool ended);

  std::string directory_;
  int attempt_;
  LogQuery query_;
  bool resumed_;
  Descriptor folder_;                    // logs/
  std::int64_t folder_changed_ns_ = -1;  // when it was last read; -1: to be read again
  std::map<std::string, std::unique_ptr<Stream>> streams_;  // by name
  std::map<std::string, std::int64_t> start_at_;            // from the cursor
};

}  // namespace lockstep::coordinator
