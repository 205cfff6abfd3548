#include "coordinator/attempts/log_reader.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <set>
#include <string_view>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/log_stream.h"
#include "core/error.h"

namespace lockstep::coordinator {

namespace {

constexpr std::string_view kCursorVersion = "1:";

[[noreturn]] void refuse_cursor() {
  throw core::Error(core::ErrorKind::kConfig,
                    "not a cursor of these logs; expected one that came with a chunk of them");
}

template <typename Number>
Number parse_number(std::string_view& text) {
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) refuse_cursor();
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

char take_one(std::string_view& text) {
  if (text.empty()) refuse_cursor();
  const char first = text.front();
  text.remove_prefix(1);
  return first;
}

// "1:ATTEMPT:" and the rest.
int cut_attempt(std::string_view& text) {
  if (!text.starts_with(kCursorVersion)) refuse_cursor();
  text.remove_prefix(kCursorVersion.size());
  const int attempt = parse_number<int>(text);
  if (attempt < 1 || take_one(text) != ':') refuse_cursor();
  return attempt;
}

struct SegmentName {
  int rank = 0;
  bool err = false;
  std::int64_t first = 0;
};

// The reverse of log_segment_name; nothing for any other name.
std::optional<SegmentName> parse_segment_name(const std::string& name) {
  constexpr std::size_t kDigits = 20;
  if (name.size() <= kDigits) return std::nullopt;
  SegmentName found;
  const char* end = name.data() + name.size();
  if (std::from_chars(end - kDigits, end, found.first).ptr != end) return std::nullopt;
  if (name.starts_with("launcher.")) {
    found.rank = -1;
  } else if (name.starts_with("rank-")) {
    const auto [behind, error] = std::from_chars(name.data() + 5, end, found.rank);
    if (error != std::errc() || found.rank < 0) return std::nullopt;
  } else {
    return std::nullopt;
  }
  for (const bool err : {false, true}) {
    found.err = err;
    if (log_segment_name(log_stream_name(found.rank, err), found.first) == name) return found;
  }
  return std::nullopt;
}

}  // namespace

class LogReader::Stream {
 public:
  Stream(int folder, int rank, bool err)
      : rank_(rank), err_(err), reader_(folder, log_stream_name(rank, err), kPieceBytes) {}

  int rank() const { return rank_; }
  bool err() const { return err_; }
  LogStreamReader& reader() { return reader_; }

  // Streams that had nothing are asked again a little later: with many of them asking costs more
  // than reading.
  const LogBatch* peek(bool ended) {
    const auto now = std::chrono::steady_clock::now();
    constexpr std::chrono::milliseconds kRest(20);
    if (!ended && now - idle_since_ < kRest) return nullptr;
    const LogBatch* batch = reader_.peek(ended);
    if (batch == nullptr) idle_since_ = now;
    return batch;
  }

 private:
  int rank_;
  bool err_;
  LogStreamReader reader_;
  std::chrono::steady_clock::time_point idle_since_{};
};

LogReader::LogReader(const std::string& attempt_directory, int attempt_number, LogQuery query,
                     const std::string& cursor)
    : directory_(attempt_directory),
      attempt_(attempt_number),
      query_(std::move(query)),
      resumed_(!cursor.empty()) {
  if (resumed_) read_cursor(cursor);
  find_streams(true);
}

LogReader::~LogReader() = default;

int LogReader::attempt_of(const std::string& cursor) {
  std::string_view text = cursor;
  return cut_attempt(text);
}

void LogReader::read_cursor(const std::string& cursor) {
  std::string_view text = cursor;
  if (cut_attempt(text) != attempt_) refuse_cursor();
  while (!text.empty()) {
    const int rank = parse_number<int>(text);
    const char stream = take_one(text);
    if (rank < -1 || (stream != 'o' && stream != 'e')) refuse_cursor();
    const auto position = parse_number<std::int64_t>(text);
    if (position < 0 || take_one(text) != ';') refuse_cursor();
    start_at_[log_stream_name(rank, stream == 'e')] = position;
  }
}

std::string LogReader::cursor() const {
  std::string text = fmt::format("{}{}:", kCursorVersion, attempt_);
  for (const auto& [name, stream] : streams_) {
    text += fmt::format("{}{}{};", stream->rank(), stream->err() ? 'e' : 'o',
                        stream->reader().position());
  }
  return text;
}

bool LogReader::selects(int rank, bool err) const {
  if (err ? !query_.err : !query_.out) return false;
  return query_.ranks.empty() ||
         std::find(query_.ranks.begin(), query_.ranks.end(), rank) != query_.ranks.end();
}

void LogReader::find_streams(bool first) {
  if (!folder_)
    folder_ = Descriptor(
        open((directory_ + "/logs").c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!folder_) return;
  struct stat status {};
  fstat(folder_.get(), &status);
  const std::int64_t changed = status.st_mtim.tv_sec * kSecond + status.st_mtim.tv_nsec;
  if (changed == folder_changed_ns_) return;
  // A second change within the same tick of the file system's clock would not show.
  constexpr std::int64_t kTick = kSecond / 20;
  folder_changed_ns_ = unix_now_ns() - changed < kTick ? -1 : changed;

  std::map<std::pair<int, bool>, std::vector<std::int64_t>> segments;
  DIR* listing = fdopendir(openat(folder_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (listing == nullptr) {
    throw core::Error(core::ErrorKind::kInternal, "cannot list " + directory_ + "/logs");
  }
  while (const dirent* entry = readdir(listing)) {
    const auto name = parse_segment_name(entry->d_name);
    if (name && selects(name->rank, name->err)) {
      segments[{name->rank, name->err}].push_back(name->first);
    }
  }
  closedir(listing);
  for (auto& [key, firsts] : segments) {
    std::sort(firsts.begin(), firsts.end());
    const std::string name = log_stream_name(key.first, key.second);
    auto& stream = streams_[name];
    const bool is_new = stream == nullptr;
    if (is_new) stream = std::make_unique<Stream>(folder_.get(), key.first, key.second);
    stream->reader().set_segments(std::move(firsts));
    if (!is_new) continue;
    if (resumed_) {
      const auto start = start_at_.find(name);
      if (start != start_at_.end()) stream->reader().start_at(start->second);
    } else if (first) {
      if (query_.since_ns > 0) stream->reader().skip_until(query_.since_ns);
      if (query_.tail_lines > 0) stream->reader().skip_to_last(query_.tail_lines);
    }
  }
}

LogReader::Stream* LogReader::earliest(bool ended) {
  Stream* best = nullptr;
  std::int64_t best_time = 0;
  for (const auto& [name, stream] : streams_) {
    const LogBatch* batch = stream->peek(ended);
    if (batch == nullptr || (best != nullptr && batch->time_ns >= best_time)) continue;
    best = stream.get();
    best_time = batch->time_ns;
  }
  return best;
}

std::optional<LogPiece> LogReader::next(bool ended) {
  find_streams(false);
  Stream* stream = earliest(ended);
  if (stream == nullptr) return std::nullopt;
  LogBatch batch = stream->reader().take();
  LogPiece piece;
  piece.rank = stream->rank();
  piece.err = stream->err();
  piece.time_ns = batch.time_ns;
  piece.bytes = std::move(batch.bytes);
  piece.dropped = batch.dropped;
  piece.no_space = batch.no_space;
  piece.cursor = cursor();
  return piece;
}

}  // namespace lockstep::coordinator
