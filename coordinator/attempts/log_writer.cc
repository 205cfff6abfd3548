#include "coordinator/attempts/log_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/error.h"

namespace lockstep::coordinator {

namespace {

// An entry of 16 bytes at most every 64 bytes: an index is at most a quarter of its text.
constexpr std::int64_t kEntrySpacing = 64;
constexpr std::int64_t kSmallestSegment = 1 << 10;
constexpr std::int64_t kLargestSegment = 16 << 20;
constexpr std::int64_t kSegments = 8;  // at least so many, for a head and a tail that rolls
constexpr std::int64_t kCheckBytes = 1 << 20;
constexpr std::int64_t kCheckNs = 1'000'000'000;

bool write_all(int fd, const char* data, std::size_t size, std::size_t& done) {
  for (done = 0; done < size;) {
    const ssize_t n = write(fd, data + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<std::size_t>(n);
  }
  return true;
}

// A new file. Whatever a rank may have put under this name, a link perhaps, goes.
Descriptor make_file(int folder, const std::string& name) {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  Descriptor file(openat(folder, name.c_str(), kFlags, 0600));
  if (!file && errno == EEXIST && unlinkat(folder, name.c_str(), 0) == 0) {
    return Descriptor(openat(folder, name.c_str(), kFlags, 0600));
  }
  return file;
}

}  // namespace

std::string log_stream_name(int rank, bool err) {
  const char* stream = err ? "err" : "out";
  return rank < 0 ? fmt::format("launcher.{}", stream) : fmt::format("rank-{:04}.{}", rank, stream);
}

std::string log_segment_name(const std::string& stream, std::int64_t first_byte) {
  return fmt::format("{}.{:020}", stream, first_byte);
}

LogLayout LogLayout::of(std::int64_t bytes) {
  if (bytes < kSmallestPart) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("a log stream would be kept to {} bytes; expected at least {}: "
                                  "raise the log quota of a run",
                                  bytes, kSmallestPart));
  }
  const std::int64_t text = bytes / 5 * 4;
  LogLayout layout;
  layout.segment_bytes = std::clamp(text / kSegments, kSmallestSegment, kLargestSegment);
  const auto segments = static_cast<int>(text / layout.segment_bytes);
  layout.head_segments = std::max(1, segments / 4);
  layout.tail_segments = segments - layout.head_segments;
  return layout;
}

std::int64_t log_part(std::int64_t quota, int ranks, bool err) {
  return (err ? quota / 4 : quota / 4 * 3) / (ranks + 1);
}

LogWriter::LogWriter(int folder, std::string stream, LogLayout layout, std::int64_t free_space)
    : folder_(folder), stream_(std::move(stream)), layout_(layout), free_space_(free_space) {}

void LogWriter::write(std::string_view bytes, std::int64_t time_ns) {
  while (!bytes.empty()) {
    if (segment_ && segment_size_ >= layout_.segment_bytes) close_segment();
    if (!space_left(time_ns) || (!segment_ && !open_segment(time_ns))) return drop(bytes.size());
    const auto room = static_cast<std::size_t>(layout_.segment_bytes - segment_size_);
    const std::string_view part = bytes.substr(0, room);
    note_lines(part, time_ns);  // first: whoever sees a line finds its time
    std::size_t done = 0;
    const bool whole = write_all(segment_.get(), part.data(), part.size(), done);
    segment_size_ += static_cast<std::int64_t>(done);
    written_ += static_cast<std::int64_t>(done);
    since_check_ += static_cast<std::int64_t>(done);
    bytes.remove_prefix(done);
    if (!whole) {
      // No space, or worse: what comes until there is some is lost, and counted.
      close_segment();
      space_ = false;
      checked_ns_ = time_ns;
      return drop(bytes.size());
    }
  }
}

void LogWriter::finish(std::int64_t time_ns) {
  const bool end_kept = segment_ && segment_first_ + segment_size_ == written();
  if (!end_kept && written() > 0) {
    segment_.reset();
    open_segment(time_ns);
  }
  segment_.reset();
  index_.reset();
}

bool LogWriter::open_segment(std::int64_t time_ns) {
  const std::string name = log_segment_name(stream_, written());
  // The index first: a reader that sees a segment finds its index too, and why there is a gap.
  if (lost_) make_file(folder_, name + kLogFullSuffix);
  index_ = make_file(folder_, name + kLogIndexSuffix);
  segment_ = make_file(folder_, name);
  if (!segment_ || !index_) {
    segment_.reset();
    space_ = false;
    checked_ns_ = time_ns;
    return false;
  }
  lost_ = false;
  segment_first_ = written();
  segment_size_ = 0;
  last_entry_ = -1;
  add_index_entry(segment_first_, time_ns);
  return true;
}

void LogWriter::close_segment() {
  segment_.reset();
  index_.reset();
  if (head_used_ < layout_.head_segments) {
    ++head_used_;
    return;
  }
  tail_.push_back({segment_first_, segment_size_});
  shorten_tail();
}

// Makes room for one more segment.
void LogWriter::shorten_tail() {
  while (tail_.size() >= static_cast<std::size_t>(layout_.tail_segments)) {
    const std::string name = log_segment_name(stream_, tail_.front().first);
    unlinkat(folder_, name.c_str(), 0);
    for (const char* suffix : {kLogIndexSuffix, kLogFullSuffix})
      unlinkat(folder_, (name + suffix).c_str(), 0);
    dropped_ += tail_.front().size;
    tail_.pop_front();
  }
}

// Where lines begin in bytes that are about to be appended behind segment_size_: the first of them
// and, when the bytes go on with an older line, the first line behind that.
void LogWriter::note_lines(std::string_view bytes, std::int64_t time_ns) {
  if (bytes.empty()) return;
  const std::int64_t begin = segment_first_ + segment_size_;
  if (at_line_start_) {
    add_index_entry(begin, time_ns);
  } else {
    const std::size_t end = bytes.find('\n');
    if (end != std::string_view::npos && end + 1 < bytes.size()) {
      add_index_entry(begin + static_cast<std::int64_t>(end) + 1, time_ns);
    }
  }
  at_line_start_ = bytes.back() == '\n';
}

void LogWriter::add_index_entry(std::int64_t offset, std::int64_t time_ns) {
  if (!index_ || (last_entry_ >= 0 && offset < last_entry_ + kEntrySpacing)) return;
  const LogIndexEntry entry{offset, time_ns};
  std::size_t done = 0;
  // After half an entry nothing may follow.
  if (!write_all(index_.get(), reinterpret_cast<const char*>(&entry), sizeof(entry), done)) {
    index_.reset();
  }
  last_entry_ = offset;
}

bool LogWriter::space_left(std::int64_t time_ns) {
  if (since_check_ < kCheckBytes && time_ns - checked_ns_ < kCheckNs) return space_;
  checked_ns_ = time_ns;
  since_check_ = 0;
  struct stat file {};
  if (segment_ && fstat(segment_.get(), &file) == 0 && file.st_nlink == 0) {
    // Somebody removed it: what it had is lost, what comes goes into a new one.
    dropped_ += segment_size_;
    segment_.reset();
    index_.reset();
  }
  struct statvfs status {};
  if (fstatvfs(folder_, &status) != 0) return space_;
  const auto left = static_cast<std::int64_t>(status.f_bavail * status.f_frsize);
  space_ = left > free_space_;
  if (!space_ && segment_) close_segment();
  return space_;
}

void LogWriter::drop(std::size_t bytes) {
  written_ += static_cast<std::int64_t>(bytes);
  dropped_ += static_cast<std::int64_t>(bytes);
  lost_ = true;  // only for want of room is anything dropped before it was written
  at_line_start_ = true;
}

}  // namespace lockstep::coordinator
