#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/attempts/descriptor.h"
#include "coordinator/attempts/log_writer.h"

namespace lockstep::coordinator {

// Lines of one stream that came together, and the bytes in front of them that were not kept.
struct LogBatch {
  std::int64_t time_ns = 0;
  std::int64_t dropped = 0;
  bool no_space = false;  // `dropped` for want of room on the disk, not because of the quota
  std::string bytes;
};

// Reads one stream of log_writer.h, also while it is written and shortened.
class LogStreamReader {
 public:
  // folder: descriptor of logs/, which must outlive this.
  LogStreamReader(int folder, std::string name, std::size_t batch_bytes);

  // The first bytes of the segments that exist now, ascending.
  void set_segments(std::vector<std::int64_t> firsts);

  void start_at(std::int64_t position) { position_ = position; }
  // To the first line that came at or after this time, or the end.
  void skip_until(std::int64_t time_ns);
  // To the last `lines` lines, if that is further on.
  void skip_to_last(std::int64_t lines);

  // The next batch, which stays the next one until take(). Null: nothing for now. A last line
  // without an end comes only with `ended`.
  const LogBatch* peek(bool ended);
  LogBatch take();
  std::int64_t position() const { return position_; }  // the byte behind what was taken

 private:
  struct Segment {
    std::int64_t first = -1;
    Descriptor text;
    Descriptor index;
    std::int64_t size() const;
  };
  bool open_segment(Segment& segment, std::int64_t first) const;
  std::size_t segment_of(std::int64_t offset) const;  // the last that begins at or before; or npos
  bool advance(std::int64_t offset, std::int64_t& gap_end);
  void fill();
  void read_index();
  std::size_t batch_end(bool ended) const;
  std::int64_t line_start_before(std::int64_t lines) const;

  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

  const int folder_;
  const std::string name_;
  const std::size_t batch_bytes_;
  std::vector<std::int64_t> firsts_;

  std::int64_t position_ = 0;  // of buffer_[0], but for the gap in front of it
  std::int64_t dropped_ = 0;   // gap in front of buffer_[0], at position_ - dropped_
  std::string buffer_;
  bool no_space_ = false;               // the gap, for want of room
  bool cut_ = false;                    // what follows buffer_ was not kept
  Segment current_;                     // that the end of buffer_ lies in
  std::size_t index_read_ = 0;          // entries of current_ that are in entries_ or before it
  std::vector<LogIndexEntry> entries_;  // about buffer_; the first is not behind position_
  std::optional<LogBatch> next_;
};

}  // namespace lockstep::coordinator
