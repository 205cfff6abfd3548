#include "launcher/stop_request.h"

#include <signal.h>

namespace lockstep::launcher {

namespace {

// A signal handler can reach nothing but a global; it holds a number and owns nothing.
std::atomic<int> requested{0};
static_assert(std::atomic<int>::is_always_lock_free);

constexpr int kSignals[] = {SIGTERM, SIGINT, SIGUSR1};

void take_note(int signal) {
  int none = 0;
  requested.compare_exchange_strong(none, signal);
  if (signal != SIGUSR1) {
    // The next one ends the process.
    ::signal(SIGTERM, SIG_DFL);
    ::signal(SIGINT, SIG_DFL);
  }
}

}  // namespace

StopRequest::StopRequest() {
  requested = 0;
  struct sigaction action {};
  action.sa_handler = take_note;
  action.sa_flags = SA_RESTART;
  for (const int signal : kSignals)
    sigaction(signal, &action, nullptr);
}

StopRequest::~StopRequest() {
  for (const int signal : kSignals)
    ::signal(signal, SIG_DFL);
}

const std::atomic<int>& StopRequest::flag() const {
  return requested;
}

}  // namespace lockstep::launcher
