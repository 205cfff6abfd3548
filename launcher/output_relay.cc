#include "launcher/output_relay.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "core/error.h"

namespace lockstep::launcher {

namespace {

constexpr std::string_view kTakeAway = "\r\033[K";
constexpr int kPollMs = 100;

void write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace

ProgressLine::ProgressLine() : on_terminal_(isatty(STDERR_FILENO) == 1) {}

void ProgressLine::draw() const {
  if (!text_.empty() && at_line_start_) write_all(STDERR_FILENO, std::string(kTakeAway) + text_);
}

void ProgressLine::show(const std::string& text) {
  const std::lock_guard lock(mutex_);
  if (!text_.empty() && text.empty()) write_all(STDERR_FILENO, kTakeAway);
  text_ = text;
  draw();
}

void ProgressLine::print(int descriptor, const char* data, std::size_t size) {
  const std::lock_guard lock(mutex_);
  if (!text_.empty() && at_line_start_) write_all(STDERR_FILENO, kTakeAway);
  write_all(descriptor, {data, size});
  if (on_terminal_ && size > 0) at_line_start_ = data[size - 1] == '\n';
  draw();
}

OutputRelay::OutputRelay(ProgressLine& line, int to) : line_(line), to_(to) {
  int ends[2] = {-1, -1};
  if (pipe2(ends, O_CLOEXEC) != 0) {
    throw core::Error(core::ErrorKind::kInternal,
                      fmt::format("cannot make a pipe: {}", std::strerror(errno)));
  }
  read_end_ = ends[0];
  write_end_ = ends[1];
}

OutputRelay::~OutputRelay() {
  drain();
  if (write_end_ >= 0) close(write_end_);
  close(read_end_);
}

void OutputRelay::start() {
  close(write_end_);
  write_end_ = -1;
  thread_ = std::thread([this] { run(); });
}

void OutputRelay::drain() {
  writer_ended_ = true;
  if (thread_.joinable()) thread_.join();
}

void OutputRelay::run() {
  std::array<char, 65536> piece{};
  while (true) {
    // What the writer wrote is in the pipe when it has ended; a process that it left behind may
    // hold the pipe open.
    const bool last = writer_ended_;
    pollfd entry{read_end_, POLLIN, 0};
    if (poll(&entry, 1, last ? 0 : kPollMs) <= 0) {
      if (last) return;
      continue;
    }
    const ssize_t size = read(read_end_, piece.data(), piece.size());
    if (size <= 0) return;
    bytes_ += static_cast<std::uint64_t>(size);
    line_.print(to_, piece.data(), static_cast<std::size_t>(size));
  }
}

}  // namespace lockstep::launcher
