#include "coordinator/attempts/log_pump.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "coordinator/attempts/attempt_files.h"
#include "core/error.h"

namespace lockstep::coordinator {

namespace {

constexpr std::size_t kReadBytes = 64 << 10;  // what a pipe holds

[[noreturn]] void fail(const char* what) {
  throw core::Error(core::ErrorKind::kInternal,
                    fmt::format("cannot {}: {}", what, std::strerror(errno)));
}

}  // namespace

LogPump::LogPump(const std::string& directory, int ranks, const LogLimits& limits)
    : poller_(epoll_create1(EPOLL_CLOEXEC)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  const std::string logs = directory + "/logs";
  if (mkdir(logs.c_str(), 0700) != 0 && errno != EEXIST) fail("make the folder of the logs");
  folder_ = Descriptor(open(logs.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!folder_ || !poller_ || !wake_) fail("open the folder of the logs");
  for (int rank = -1; rank < ranks; ++rank) {
    for (const bool err : {false, true})
      add(rank, err, ranks, limits);
  }
  epoll_event event{};
  event.events = EPOLLIN;
  if (epoll_ctl(poller_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) fail("watch the logs");
}

LogPump::~LogPump() {
  if (thread_.joinable()) finish();
}

void LogPump::add(int rank, bool err, int ranks, const LogLimits& limits) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) fail("make a pipe");
  Stream stream;
  stream.from = Descriptor(ends[0]);
  stream.to = Descriptor(ends[1]);
  if (fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0) fail("set up a pipe");
  stream.writer = std::make_unique<LogWriter>(folder_.get(), log_stream_name(rank, err),
                                              LogLayout::of(log_part(limits.bytes, ranks, err)),
                                              limits.free_space);
  Stream& kept = streams_[{rank, err}] = std::move(stream);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = &kept;
  if (epoll_ctl(poller_.get(), EPOLL_CTL_ADD, kept.from.get(), &event) != 0) fail("watch a pipe");
}

Descriptor LogPump::take_end(int rank, bool err) {
  const auto found = streams_.find({rank, err});
  return found == streams_.end() ? Descriptor() : std::move(found->second.to);
}

bool LogPump::make_folder_again(const std::string& directory) {
  const std::string logs = directory + "/logs";
  if (mkdir(logs.c_str(), 0700) != 0 && errno != EEXIST) return false;
  const Descriptor folder(open(logs.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  // The writers go on with the same number.
  return folder && dup3(folder.get(), folder_.get(), O_CLOEXEC) >= 0;
}

void LogPump::start() {
  thread_ = std::thread([this] { run(); });
}

void LogPump::finish() {
  const std::uint64_t one = 1;
  if (write(wake_.get(), &one, sizeof(one)) < 0) return;  // cannot: the counter is far from full
  thread_.join();
}

// Reads until the pipe is empty; false once it has no writer any more.
bool LogPump::drain(Stream& stream, std::string& buffer) {
  // A busy pipe lets the others have their turn.
  for (int turn = 0; turn < 16; ++turn) {
    const ssize_t n = read(stream.from.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return false;
    stream.writer->write(std::string_view(buffer).substr(0, static_cast<std::size_t>(n)),
                         unix_now_ns());
  }
  return true;
}

void LogPump::run() {
  std::string buffer(kReadBytes, '\0');
  bool finishing = false;
  while (true) {
    std::array<epoll_event, 64> events{};
    const int count = epoll_wait(poller_.get(), events.data(), static_cast<int>(events.size()),
                                 finishing ? 0 : -1);
    bool any = false;
    for (int i = 0; i < count; ++i) {
      auto* stream = static_cast<Stream*>(events[static_cast<std::size_t>(i)].data.ptr);
      if (stream == nullptr) {
        finishing = true;
        epoll_ctl(poller_.get(), EPOLL_CTL_DEL, wake_.get(), nullptr);
        any = true;
      } else if (drain(*stream, buffer)) {
        any = true;
      } else {
        epoll_ctl(poller_.get(), EPOLL_CTL_DEL, stream->from.get(), nullptr);
      }
    }
    if (finishing && !any) break;
  }
  for (auto& [key, stream] : streams_)
    stream.writer->finish(unix_now_ns());
}

std::int64_t LogPump::written() const {
  std::int64_t sum = 0;
  for (const auto& [key, stream] : streams_)
    sum += stream.writer->written();
  return sum;
}

std::int64_t LogPump::dropped() const {
  std::int64_t sum = 0;
  for (const auto& [key, stream] : streams_)
    sum += stream.writer->dropped();
  return sum;
}

}  // namespace lockstep::coordinator
