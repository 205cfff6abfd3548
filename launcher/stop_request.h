#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "core/signals.h"
#include "launcher/launcher_line.h"

namespace lockstep::launcher {

// The signals that ask a run to stop: SIGTERM, SIGINT, SIGUSR1, SIGXCPU (the processor time that a
// batch system allows), and SIGHUP unless this program was started to ignore it (nohup).
std::vector<int> stop_signals();

// Whether a further signal ends the run at once, and is not the same request on another way: Ctrl-C
// and a batch system signal several processes of a job, some of which pass the signal on.
class SecondRequest {
 public:
  bool is_second(int signal);

 private:
  static constexpr std::chrono::seconds kMoment{1};
  std::chrono::steady_clock::time_point first_{};
};

// While it lives, a stop signal, or `train --ranks` on its line, asks this rank for a stop at the
// next step boundary instead of ending the process. A second SIGTERM, SIGINT or SIGHUP, more than a
// second after the first request, ends the process at once with kStopped. Writing where nobody reads, or beyond
// the limit of a file's size, is an error of that write alone. One at a time in a process, whose
// threads hold signals (core/signals.h).
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  // The number of the first signal; 0: nothing asked.
  const std::atomic<int>& flag() const { return requested_; }
  const LauncherLine& launcher() const { return line_; }

  // What is called, on a thread of its own, before the process ends at once. An empty one: nothing.
  void set_last_words(std::function<void(const std::string& cause)> last_words);

 private:
  void take(int signal);

  std::atomic<int> requested_{0};
  SecondRequest second_;
  std::mutex mutex_;
  std::function<void(const std::string&)> last_words_;
  const LauncherLine line_;
  core::SignalThread signals_;
};

}  // namespace lockstep::launcher
