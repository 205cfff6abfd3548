#include "coordinator/client/interrupt.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

namespace lockstep::coordinator {
namespace {

constexpr std::uint64_t kEnd = 1;
constexpr std::uint64_t kSignal = std::uint64_t{1} << 32;

// The handler can reach nothing but globals; this one holds a number.
std::atomic<int> event_file{-1};

void note(std::uint64_t what) {
  const int saved = errno;
  [[maybe_unused]] const ssize_t written = write(event_file.load(), &what, sizeof what);
  errno = saved;
}

void on_signal(int) {
  note(kSignal);
}

}  // namespace

Interrupt::Interrupt(std::function<void()> act) {
  event_file = eventfd(0, EFD_CLOEXEC);
  if (event_file < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  watcher_ = std::thread([act = std::move(act)] {
    std::uint64_t seen = 0;
    while (read(event_file.load(), &seen, sizeof seen) < 0 && errno == EINTR) {
    }
    if (seen >= kSignal) act();
  });
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
}

Interrupt::~Interrupt() {
  signal(SIGINT, SIG_DFL);
  note(kEnd);
  watcher_.join();
  close(event_file.exchange(-1));
}

}  // namespace lockstep::coordinator
