// Preloaded into a program, it makes a signal arrive every millisecond, whose empty handler runs on
// the stack of whatever thread takes it: what a profiler does.
#include <signal.h>
#include <sys/time.h>

namespace {

void do_nothing(int) {}

[[gnu::constructor]] void begin() {
  struct sigaction action {};
  action.sa_handler = do_nothing;
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  const itimerval every_millisecond{{0, 1000}, {0, 1000}};
  setitimer(ITIMER_REAL, &every_millisecond, nullptr);
}

}  // namespace
