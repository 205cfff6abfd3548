#include "launcher/launcher_line.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <random>

#include "core/error.h"

namespace lockstep::launcher {

namespace {

constexpr const char* kNameVariable = "LOCKSTEP_LAUNCHER";
constexpr const char* kProgressVariable = "LOCKSTEP_LAUNCHER_PROGRESS";
constexpr const char* kStop = "stop";
constexpr std::string_view kRank = "rank ";
constexpr std::string_view kProgress = "progress ";
constexpr std::size_t kLongest = 512;  // bytes of a message

// A name in the abstract namespace begins with a NUL.
socklen_t fill(sockaddr_un& address, const std::string& name) {
  address = {};
  address.sun_family = AF_UNIX;
  const std::size_t length = std::min(name.size(), sizeof(address.sun_path) - 1);
  std::memcpy(address.sun_path + 1, name.data(), length);
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
}

int make_socket(int more) {
  return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | more, 0);
}

bool say(int socket, std::string_view text) {
  return send(socket, text.data(), std::min(text.size(), kLongest), MSG_NOSIGNAL | MSG_DONTWAIT) >=
         0;
}

// A message; empty when nothing is there, nothing at all when nothing more can come.
std::optional<std::string> receive(int socket) {
  std::array<char, kLongest> text{};
  const ssize_t size = recv(socket, text.data(), text.size(), MSG_DONTWAIT);
  if (size > 0) return std::string(text.data(), static_cast<std::size_t>(size));
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return "";
  return std::nullopt;
}

}  // namespace

LauncherLine::LauncherLine() {
  const char* name = std::getenv(kNameVariable);
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (name == nullptr || rank == nullptr) return;
  socket_ = make_socket(0);
  sockaddr_un address{};
  const socklen_t size = fill(address, name);
  if (socket_ >= 0 && connect(socket_, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
      say(socket_, fmt::format("{}{}", kRank, rank))) {
    return;
  }
  const int error = errno;
  if (socket_ >= 0) close(socket_);
  throw core::Error(core::ErrorKind::kCommunication,
                    fmt::format("rank {} cannot reach the process that started it: {}", rank,
                                std::strerror(error)));
}

LauncherLine::~LauncherLine() {
  if (socket_ >= 0) close(socket_);
}

bool LauncherLine::shows_progress() const {
  return connected() && std::getenv(kProgressVariable) != nullptr;
}

void LauncherLine::show_progress(const std::string& text) const {
  say(socket_, std::string(kProgress) + text);
}

bool LauncherLine::take_stop(bool& open) const {
  const std::optional<std::string> text = receive(socket_);
  open = text.has_value();
  return text == kStop;
}

RankLines::RankLines() {
  std::random_device random;
  name_ = fmt::format("lockstep-launcher-{}-{:08x}{:08x}", getpid(), random(), random());
  listener_ = make_socket(SOCK_NONBLOCK);
  sockaddr_un address{};
  const socklen_t size = fill(address, name_);
  if (listener_ < 0 || bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listener_, SOMAXCONN) != 0) {
    const int error = errno;
    if (listener_ >= 0) close(listener_);
    throw core::Error(core::ErrorKind::kInternal,
                      fmt::format("cannot make a socket for the ranks: {}", std::strerror(error)));
  }
}

RankLines::~RankLines() {
  for (const Rank& rank : ranks_) {
    if (rank.socket >= 0) close(rank.socket);
  }
  close(listener_);
}

void RankLines::put_into_environment(bool progress) const {
  setenv(kNameVariable, name_.c_str(), 1);
  if (progress) {
    setenv(kProgressVariable, "1", 1);
  } else {
    unsetenv(kProgressVariable);
  }
}

void RankLines::welcome() {
  for (int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC); socket >= 0;
       socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)) {
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != geteuid()) {
      close(socket);
      continue;
    }
    ranks_.push_back({socket, peer.pid, -1});
    if (stop_) say(socket, kStop);
  }
}

void RankLines::hear(Rank& rank, std::optional<std::string>& progress) {
  std::optional<std::string> text = receive(rank.socket);
  for (; text && !text->empty(); text = receive(rank.socket)) {
    if (text->starts_with(kRank)) {
      rank.number = std::atoi(text->c_str() + kRank.size());
    } else if (text->starts_with(kProgress)) {
      progress = text->substr(kProgress.size());
    }
  }
  if (text) return;
  close(rank.socket);
  rank.socket = -1;
}

std::optional<std::string> RankLines::listen(const std::vector<int>& others, int timeout_ms) {
  std::vector<pollfd> entries = {{listener_, POLLIN, 0}};
  for (const int other : others)
    entries.push_back({other, POLLIN, 0});
  for (const Rank& rank : ranks_)
    entries.push_back({rank.socket, POLLIN, 0});  // poll passes over -1
  poll(entries.data(), entries.size(), timeout_ms);
  std::optional<std::string> progress;
  for (Rank& rank : ranks_) {
    if (rank.socket >= 0) hear(rank, progress);
  }
  welcome();
  return progress;
}

void RankLines::ask_to_stop() {
  stop_ = true;
  for (const Rank& rank : ranks_) {
    if (rank.socket >= 0) say(rank.socket, kStop);
  }
}

}  // namespace lockstep::launcher
