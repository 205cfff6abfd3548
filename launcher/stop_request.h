#pragma once

#include <atomic>

namespace lockstep::launcher {

// While it lives, SIGTERM, SIGINT and SIGUSR1 ask for a stop at the next step boundary instead of
// ending the process: flag() becomes the number of the first signal. A second SIGTERM or SIGINT
// ends the process at once. One at a time in a process.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  const std::atomic<int>& flag() const;  // 0: nothing asked
};

}  // namespace lockstep::launcher
