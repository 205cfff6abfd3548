#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>

namespace lockstep::coordinator {

// Reads the whole lines of a file that grows at its end, and that may be cut back to the end of an
// earlier line and grow again in another way, as metrics.jsonl is when a run is resumed. That is
// noticed also when the file has meanwhile become longer than before: what was read last is
// compared with what is there. One thread at a time.
class LineFile {
 public:
  // `name` below `directory`; links are not followed. `offset`: of the beginning of a line.
  LineFile(std::string directory, std::string name, std::int64_t offset);

  struct Part {
    std::string lines;  // whole, each with its newline
    std::int64_t next_offset = 0;
    bool cut_back = false;  // what had come behind next_offset is void; `lines` is empty
    bool at_end = false;    // nothing more for now
  };
  static constexpr std::size_t kPartBytes = 32 << 10;  // unless one line is longer
  static constexpr std::size_t kMaxLineBytes = 1 << 20;

  // The next lines that `wanted` likes, from at most kPartBytes of the file.
  Part next(const std::function<bool(std::string_view)>& wanted);

  // Goes to the beginning of the last `count` lines that `wanted` likes.
  void go_to_tail(std::int64_t count, const std::function<bool(std::string_view)>& wanted);

 private:
  struct Mark {
    std::int64_t end;    // offset behind a line that was read
    std::uint64_t hash;  // of the bytes in front of it
  };
  static constexpr std::size_t kMarks = 1024;
  static constexpr std::size_t kHashedBytes = 512;

  bool fits(int descriptor, const Mark& mark) const;
  void add_marks(std::string_view bytes, std::int64_t begin);

  std::string directory_;
  std::string name_;
  std::int64_t offset_;
  std::deque<Mark> marks_;  // rising
};

}  // namespace lockstep::coordinator
