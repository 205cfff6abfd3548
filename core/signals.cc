#include "core/signals.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace lockstep::core {

namespace {

// What a thread raises itself, and what ends it in any case.
constexpr int kOwnSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGPIPE};

int descriptor_or_throw(int descriptor, const char* what) {
  if (descriptor >= 0) return descriptor;
  throw Error(ErrorKind::kInternal, fmt::format("cannot make {}: {}", what, std::strerror(errno)));
}

}  // namespace

void hold_signals() noexcept {
  sigset_t held;
  sigfillset(&held);
  for (const int signal : kOwnSignals)
    sigdelset(&held, signal);
  pthread_sigmask(SIG_SETMASK, &held, nullptr);
}

void release_signals() noexcept {
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);
}

sigset_t signal_set(const std::vector<int>& signals) noexcept {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals)
    sigaddset(&set, signal);
  return set;
}

SignalThread::SignalThread(const std::vector<int>& taken, std::function<void(int)> on_signal)
    : taken_(signal_set(taken)),
      on_signal_(std::move(on_signal)),
      signals_(
          descriptor_or_throw(signalfd(-1, &taken_, SFD_CLOEXEC | SFD_NONBLOCK), "a signalfd")),
      wake_(descriptor_or_throw(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "an eventfd")),
      thread_([this] { run(); }) {}

SignalThread::~SignalThread() {
  ends_ = true;
  eventfd_write(wake_, 1);
  thread_.join();
  close(wake_);
  close(signals_);
}

void SignalThread::watch(int descriptor, std::function<bool()> on_input) {
  on_input_ = std::move(on_input);
  watched_ = descriptor;
  eventfd_write(wake_, 1);
}

void SignalThread::run() {
  pthread_sigmask(SIG_SETMASK, &taken_, nullptr);
  while (!ends_) {
    pollfd entries[] = {{signals_, POLLIN, 0}, {wake_, POLLIN, 0}, {watched_, POLLIN, 0}};
    if (poll(entries, std::size(entries), -1) < 0) continue;  // a handler has run
    if (entries[1].revents != 0) {
      eventfd_t ignored = 0;
      eventfd_read(wake_, &ignored);
    }
    signalfd_siginfo info{};
    while (read(signals_, &info, sizeof(info)) == sizeof(info))
      on_signal_(static_cast<int>(info.ssi_signo));
    if (entries[2].revents != 0 && !on_input_()) watched_ = -1;
  }
}

}  // namespace lockstep::core
