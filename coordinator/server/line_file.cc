#include "coordinator/server/line_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "coordinator/attempts/attempt_files.h"
#include "core/error.h"
#include "core/hash.h"

namespace lockstep::coordinator {
namespace {

std::string read_at(int descriptor, std::int64_t offset, std::size_t count) {
  std::string bytes(count, '\0');
  std::size_t got = 0;
  while (got < count) {
    const ::ssize_t part = ::pread(descriptor, bytes.data() + got, count - got,
                                   offset + static_cast<std::int64_t>(got));
    if (part < 0 && errno == EINTR) continue;
    if (part < 0) {
      throw core::Error(core::ErrorKind::kData,
                        fmt::format("cannot read metrics: {}", std::strerror(errno)));
    }
    if (part == 0) break;
    got += static_cast<std::size_t>(part);
  }
  bytes.resize(got);
  return bytes;
}

// The regular file, or an empty descriptor while there is none.
Descriptor open_file(const std::string& directory, const std::string& name) {
  const Descriptor root(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (root.get() < 0) return Descriptor();
  return open_beneath(root.get(), name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

std::int64_t size_of(int descriptor) {
  struct stat info {};
  return ::fstat(descriptor, &info) == 0 ? static_cast<std::int64_t>(info.st_size) : 0;
}

std::uint64_t hash_in_front(std::string_view bytes, std::size_t most) {
  const std::string_view hashed = bytes.substr(bytes.size() - std::min(bytes.size(), most));
  return core::hash64(hashed);
}

}  // namespace

LineFile::LineFile(std::string directory, std::string name, std::int64_t offset)
    : directory_(std::move(directory)), name_(std::move(name)), offset_(offset) {}

bool LineFile::fits(int descriptor, const Mark& mark) const {
  const auto count = static_cast<std::size_t>(std::min<std::int64_t>(mark.end, kHashedBytes));
  const std::string bytes = read_at(descriptor, mark.end - static_cast<std::int64_t>(count), count);
  return bytes.size() == count && hash_in_front(bytes, kHashedBytes) == mark.hash;
}

// A mark behind each line of `bytes`, which begin at `begin` in the file.
void LineFile::add_marks(std::string_view bytes, std::int64_t begin) {
  for (std::size_t end = bytes.find('\n'); end != std::string_view::npos;
       end = bytes.find('\n', end + 1)) {
    // What is hashed must be the same when it is read again: only marks with enough in front, or at
    // the beginning of the file.
    if (end + 1 < kHashedBytes && begin != 0) continue;
    marks_.push_back({begin + static_cast<std::int64_t>(end) + 1,
                      hash_in_front(bytes.substr(0, end + 1), kHashedBytes)});
    if (marks_.size() > kMarks) marks_.pop_front();
  }
}

LineFile::Part LineFile::next(const std::function<bool(std::string_view)>& wanted) {
  Part part;
  const Descriptor file = open_file(directory_, name_);
  const std::int64_t size = file.get() < 0 ? 0 : size_of(file.get());
  bool whole = offset_ <= size && (marks_.empty() || fits(file.get(), marks_.back()));
  if (!whole) {
    while (!marks_.empty() && (marks_.back().end > size || !fits(file.get(), marks_.back())))
      marks_.pop_back();
    offset_ = marks_.empty() ? 0 : marks_.back().end;
    part.cut_back = true;
    part.next_offset = offset_;
    return part;
  }
  // The bytes in front go into the marks.
  const std::int64_t front = std::min<std::int64_t>(offset_, kHashedBytes);
  std::size_t most = kPartBytes;
  std::string bytes;
  std::size_t end = std::string::npos;
  while (file.get() >= 0) {
    bytes = read_at(file.get(), offset_ - front, static_cast<std::size_t>(front) + most);
    end = bytes.rfind('\n');
    const bool found = end != std::string::npos && end >= static_cast<std::size_t>(front);
    if (!found) end = std::string::npos;
    if (found || most >= kMaxLineBytes || bytes.size() < static_cast<std::size_t>(front) + most) {
      break;
    }
    most = kMaxLineBytes;
  }
  if (end == std::string::npos) {
    part.at_end = true;
    part.next_offset = offset_;
    return part;
  }
  bytes.resize(end + 1);
  add_marks(bytes, offset_ - front);
  const std::string_view fresh = std::string_view(bytes).substr(static_cast<std::size_t>(front));
  for (std::size_t begin = 0; begin < fresh.size();) {
    const std::size_t line_end = fresh.find('\n', begin);
    const std::string_view text = fresh.substr(begin, line_end - begin);
    if (wanted(text)) part.lines.append(text).append("\n");
    begin = line_end + 1;
  }
  offset_ += static_cast<std::int64_t>(fresh.size());
  part.next_offset = offset_;
  return part;
}

void LineFile::go_to_tail(std::int64_t count, const std::function<bool(std::string_view)>& wanted) {
  const Descriptor file = open_file(directory_, name_);
  if (file.get() < 0) return;
  marks_.clear();
  std::int64_t begin = size_of(file.get());
  std::string carried;  // the beginning of a line whose rest was in a later block
  while (begin > 0 && count > 0 && carried.size() < kMaxLineBytes) {
    const std::int64_t block = std::min<std::int64_t>(begin, kPartBytes);
    begin -= block;
    const std::string bytes = read_at(file.get(), begin, static_cast<std::size_t>(block)) + carried;
    std::size_t end = bytes.size();
    // From the last line to the first whole one.
    while (count > 0 && end > 0) {
      const std::size_t newline = end < 2 ? std::string::npos : bytes.rfind('\n', end - 2);
      if (newline == std::string::npos && begin > 0) break;
      const std::size_t line = newline == std::string::npos ? 0 : newline + 1;
      const bool is_whole = bytes[end - 1] == '\n';
      if (is_whole && wanted(std::string_view(bytes).substr(line, end - 1 - line))) --count;
      end = line;
      offset_ = begin + static_cast<std::int64_t>(line);
    }
    carried = bytes.substr(0, end);
  }
}

}  // namespace lockstep::coordinator
