#include "launcher/stop_request.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "core/error.h"

namespace lockstep::launcher {

namespace {

bool is_ignored(int signal) {
  struct sigaction action {};
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

std::vector<int> stop_signals() {
  std::vector<int> signals = {SIGTERM, SIGINT, SIGUSR1, SIGXCPU};
  if (!is_ignored(SIGHUP)) signals.push_back(SIGHUP);
  return signals;
}

bool SecondRequest::is_second(int signal) {
  const auto now = std::chrono::steady_clock::now();
  if (first_ == std::chrono::steady_clock::time_point()) {
    first_ = now;
    return false;
  }
  const bool ends = signal == SIGTERM || signal == SIGINT || signal == SIGHUP;
  return ends && now - first_ > kMoment;
}

StopRequest::StopRequest() : signals_(stop_signals(), [this](int signal) { take(signal); }) {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  if (!line_.connected()) return;
  signals_.watch(line_.descriptor(), [this] {
    bool open = true;
    if (line_.take_stop(open)) take(SIGUSR1);
    return open;
  });
}

StopRequest::~StopRequest() = default;

void StopRequest::set_last_words(std::function<void(const std::string&)> last_words) {
  const std::lock_guard lock(mutex_);
  last_words_ = std::move(last_words);
}

void StopRequest::take(int signal) {
  int none = 0;
  requested_.compare_exchange_strong(none, signal);
  if (!second_.is_second(signal)) return;
  const std::lock_guard lock(mutex_);
  const std::string cause = fmt::format(
      "ended at once by a second signal ({}); what was trained since the last checkpoint "
      "is lost; continue with --resume auto",
      strsignal(signal));
  if (last_words_) last_words_(cause);
  const std::string line =
      fmt::format("lockstep: {}: {}\n", core::describe(core::ErrorKind::kStopped), cause);
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  _exit(static_cast<int>(core::ErrorKind::kStopped));
}

}  // namespace lockstep::launcher
