#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "coordinator/attempts/descriptor.h"

// The logs of an attempt. Each stream (standard output or error of one rank, or of the launcher) is
// one long text, of which byte n keeps its number for ever. It lies in segments
//
//   logs/rank-0003.out.00000000000000000000     the number is that of the first byte
//   logs/rank-0003.out.00000000000000000000.idx
//   logs/launcher.err.00000000000016777216
//
// so that `cat logs/rank-0003.out.*[0-9]` shows it. Bytes between the end of a segment and the next
// one's number were not kept: to stay within the quota or, if the next one has an empty file with
// ".full" behind its name, because the disk had no room. An index has entries of two numbers of 64 bits, in the order of bytes
// of the machine: the byte at which a line begins, and the time (unix, ns) at which it came; the
// time of any line is that of the last entry not behind it.
namespace lockstep::coordinator {

struct LogIndexEntry {
  std::int64_t offset = 0;
  std::int64_t time_ns = 0;
};
static_assert(sizeof(LogIndexEntry) == 16);

// rank -1: the launcher
std::string log_stream_name(int rank, bool err);  // "rank-0003.out"
std::string log_segment_name(const std::string& stream, std::int64_t first_byte);
inline constexpr const char* kLogIndexSuffix = ".idx";
inline constexpr const char* kLogFullSuffix = ".full";

// How a stream's part of the quota is laid out.
struct LogLayout {
  std::int64_t segment_bytes = 0;  // of text
  int head_segments = 0;           // the first ones, kept for ever
  int tail_segments = 0;           // the newest ones

  // The text and its index never take more than `bytes`. Throws Error(kConfig) if that is less
  // than kSmallestPart.
  static LogLayout of(std::int64_t bytes);
  static constexpr std::int64_t kSmallestPart = 10 << 10;
};
// The part of each stream of `ranks` ranks and the launcher.
std::int64_t log_part(std::int64_t quota, int ranks, bool err);

// Writes one stream. One thread at a time; the counters may be read by any.
class LogWriter {
 public:
  // folder: descriptor of logs/, which must outlive this. free_space: as in LogLimits.
  LogWriter(int folder, std::string stream, LogLayout layout, std::int64_t free_space);

  // Never fails: what cannot be kept is counted as dropped.
  void write(std::string_view bytes, std::int64_t time_ns);
  // After the last write: leaves a mark if the end was not kept, so that readers know.
  void finish(std::int64_t time_ns);

  std::int64_t written() const { return written_.load(std::memory_order_relaxed); }
  std::int64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  bool open_segment(std::int64_t time_ns);
  void close_segment();
  void shorten_tail();
  void note_lines(std::string_view bytes, std::int64_t time_ns);
  void add_index_entry(std::int64_t offset, std::int64_t time_ns);
  bool space_left(std::int64_t time_ns);
  void drop(std::size_t bytes);

  const int folder_;
  const std::string stream_;
  const LogLayout layout_;
  const std::int64_t free_space_;

  Descriptor segment_;
  Descriptor index_;
  std::int64_t segment_first_ = 0;
  std::int64_t segment_size_ = 0;
  std::int64_t last_entry_ = -1;  // offset of the newest entry in this segment; -1: none
  int head_used_ = 0;
  struct Kept {
    std::int64_t first;
    std::int64_t size;
  };
  std::deque<Kept> tail_;  // closed segments of the tail

  bool at_line_start_ = true;
  std::int64_t checked_ns_ = 0;  // when the free space was last looked at
  std::int64_t since_check_ = 0;
  bool space_ = true;
  bool lost_ = false;  // bytes for want of room, since the last segment
  std::atomic<std::int64_t> written_{0};
  std::atomic<std::int64_t> dropped_{0};
};

}  // namespace lockstep::coordinator
