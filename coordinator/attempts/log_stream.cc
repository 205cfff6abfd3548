#include "coordinator/attempts/log_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "coordinator/attempts/attempt_files.h"

namespace lockstep::coordinator {

namespace {

std::size_t read_at(int fd, char* to, std::size_t size, std::int64_t offset) {
  ssize_t n = 0;
  do {
    n = pread(fd, to, size, offset);
  } while (n < 0 && errno == EINTR);
  return n < 0 ? 0 : static_cast<std::size_t>(n);
}

std::vector<LogIndexEntry> read_entries(int index, std::size_t from, std::size_t count) {
  std::vector<LogIndexEntry> entries(count);
  const std::size_t bytes =
      read_at(index, reinterpret_cast<char*>(entries.data()), count * sizeof(LogIndexEntry),
              static_cast<std::int64_t>(from * sizeof(LogIndexEntry)));
  entries.resize(bytes / sizeof(LogIndexEntry));
  return entries;
}

}  // namespace

LogStreamReader::LogStreamReader(int folder, std::string name, std::size_t batch_bytes)
    : folder_(folder), name_(std::move(name)), batch_bytes_(batch_bytes) {}

void LogStreamReader::set_segments(std::vector<std::int64_t> firsts) {
  firsts_ = std::move(firsts);
}

std::int64_t LogStreamReader::Segment::size() const {
  struct stat status {};
  return text && fstat(text.get(), &status) == 0 ? status.st_size : 0;
}

bool LogStreamReader::open_segment(Segment& segment, std::int64_t first) const {
  const std::string name = log_segment_name(name_, first);
  segment.first = first;
  segment.text = open_beneath(folder_, name, O_RDONLY);
  segment.index = open_beneath(folder_, name + kLogIndexSuffix, O_RDONLY);
  return static_cast<bool>(segment.text);
}

std::size_t LogStreamReader::segment_of(std::int64_t offset) const {
  const auto behind = std::upper_bound(firsts_.begin(), firsts_.end(), offset);
  return behind == firsts_.begin() ? kNone : static_cast<std::size_t>(behind - firsts_.begin()) - 1;
}

// Makes current_ a segment that holds the byte `offset`. False: there is none, and gap_end is where
// the next segment begins, or -1 if nothing has come behind `offset` yet.
bool LogStreamReader::advance(std::int64_t offset, std::int64_t& gap_end) {
  const auto holds = [&] {
    return current_.text && current_.first <= offset && offset < current_.first + current_.size();
  };
  gap_end = -1;
  if (holds()) return true;
  const std::size_t found = segment_of(offset);
  if (found != kNone && firsts_[found] != current_.first) {
    Segment segment;
    if (open_segment(segment, firsts_[found])) {
      current_ = std::move(segment);
      index_read_ = 0;
    }
    if (holds()) return true;
  }
  const std::size_t next = found == kNone ? 0 : found + 1;
  if (next >= firsts_.size()) return false;
  // A next one exists, so this one is complete; it may have grown since it was looked at.
  if (holds()) return true;
  gap_end = firsts_[next];
  return false;
}

void LogStreamReader::fill() {
  while (buffer_.size() < batch_bytes_ && !cut_) {
    const std::int64_t end = position_ + static_cast<std::int64_t>(buffer_.size());
    std::int64_t gap_end = -1;
    if (!advance(end, gap_end)) {
      if (gap_end < 0) return;
      if (!buffer_.empty()) {
        cut_ = gap_end > end;
        if (cut_) return;
      }
      if (gap_end == end) continue;  // the next segment goes on right here, but could not be opened
      dropped_ += gap_end - position_;
      const std::string mark = log_segment_name(name_, gap_end) + kLogFullSuffix;
      no_space_ = static_cast<bool>(open_beneath(folder_, mark, O_RDONLY));
      position_ = gap_end;
      entries_.clear();
      continue;
    }
    const std::size_t old = buffer_.size();
    buffer_.resize(batch_bytes_);
    buffer_.resize(old + read_at(current_.text.get(), buffer_.data() + old, batch_bytes_ - old,
                                 end - current_.first));
    read_index();
    if (buffer_.size() == old) return;
  }
}

// The entries about what was read of current_; those that are behind their use go.
void LogStreamReader::read_index() {
  const std::int64_t end = position_ + static_cast<std::int64_t>(buffer_.size());
  constexpr std::size_t kBlock = 512;
  while (current_.index && (entries_.empty() || entries_.back().offset < end)) {
    const std::vector<LogIndexEntry> more = read_entries(current_.index.get(), index_read_, kBlock);
    if (more.empty()) break;
    index_read_ += more.size();
    entries_.insert(entries_.end(), more.begin(), more.end());
    std::size_t used = 0;
    while (used + 1 < entries_.size() && entries_[used + 1].offset <= position_)
      ++used;
    entries_.erase(entries_.begin(), entries_.begin() + static_cast<std::ptrdiff_t>(used));
  }
}

// How much of buffer_ is the next batch; 0: none yet.
std::size_t LogStreamReader::batch_end(bool ended) const {
  if (buffer_.empty()) return 0;
  std::size_t end = buffer_.size();
  for (const LogIndexEntry& entry : entries_) {
    const std::int64_t at = entry.offset - position_;
    if (at <= 0) continue;
    if (at >= static_cast<std::int64_t>(buffer_.size())) break;
    const auto begin = static_cast<std::size_t>(at);
    if (buffer_[begin - 1] == '\n') {
      end = begin;
      break;
    }
  }
  const std::size_t newline = buffer_.rfind('\n', end - 1);
  if (newline != std::string::npos) return newline + 1;
  return buffer_.size() >= batch_bytes_ || cut_ || ended ? end : 0;
}

const LogBatch* LogStreamReader::peek(bool ended) {
  if (next_) return &*next_;
  std::size_t end = batch_end(false);
  if (end == 0) {
    fill();
    end = batch_end(ended);
  }
  if (end == 0 && (dropped_ == 0 || !buffer_.empty())) return nullptr;
  LogBatch batch;
  batch.dropped = std::exchange(dropped_, 0);
  batch.no_space = std::exchange(no_space_, false);
  batch.bytes = buffer_.substr(0, end);
  for (const LogIndexEntry& entry : entries_) {
    if (entry.offset <= position_ || batch.time_ns == 0) batch.time_ns = entry.time_ns;
  }
  next_ = std::move(batch);
  return &*next_;
}

LogBatch LogStreamReader::take() {
  LogBatch batch = std::move(*next_);
  next_.reset();
  buffer_.erase(0, batch.bytes.size());
  position_ += static_cast<std::int64_t>(batch.bytes.size());
  if (buffer_.empty()) cut_ = false;
  std::size_t used = 0;
  while (used + 1 < entries_.size() && entries_[used + 1].offset <= position_)
    ++used;
  entries_.erase(entries_.begin(), entries_.begin() + static_cast<std::ptrdiff_t>(used));
  return batch;
}

void LogStreamReader::skip_until(std::int64_t time_ns) {
  for (std::size_t i = firsts_.size(); i-- > 0;) {
    Segment segment;
    if (!open_segment(segment, firsts_[i]) || !segment.index) continue;
    struct stat status {};
    fstat(segment.index.get(), &status);
    const auto count = static_cast<std::size_t>(status.st_size) / sizeof(LogIndexEntry);
    const auto time_of = [&](std::size_t entry) {
      const auto read = read_entries(segment.index.get(), entry, 1);
      return read.empty() ? time_ns : read.front().time_ns;
    };
    if (count == 0 || (i > 0 && time_of(0) >= time_ns)) continue;
    std::size_t low = 0, high = count;
    while (low < high) {
      const std::size_t middle = (low + high) / 2;
      if (time_of(middle) < time_ns) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const auto found = read_entries(segment.index.get(), low, 1);
    const std::int64_t end = segment.first + segment.size();
    position_ = low < count && !found.empty() ? found.front().offset : end;
    return;
  }
}

void LogStreamReader::skip_to_last(std::int64_t lines) {
  position_ = std::max(position_, line_start_before(lines));
}

// Where the last `lines` lines begin; 0 if there are fewer.
std::int64_t LogStreamReader::line_start_before(std::int64_t lines) const {
  std::string block(batch_bytes_, '\0');
  bool last_byte = true;
  for (std::size_t i = firsts_.size(); i-- > 0;) {
    Segment segment;
    if (!open_segment(segment, firsts_[i])) continue;
    for (std::int64_t end = segment.size(); end > 0;) {
      const std::int64_t begin =
          std::max<std::int64_t>(0, end - static_cast<std::int64_t>(block.size()));
      const std::size_t size =
          read_at(segment.text.get(), block.data(), static_cast<std::size_t>(end - begin), begin);
      for (std::size_t at = size; at-- > 0;) {
        // The end of the last line is the end of no line before it.
        const bool counts = block[at] == '\n' && !last_byte;
        last_byte = false;
        if (counts && --lines == 0) {
          return segment.first + begin + static_cast<std::int64_t>(at) + 1;
        }
      }
      end = begin;
    }
  }
  return 0;
}

}  // namespace lockstep::coordinator
