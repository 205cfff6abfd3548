#pragma once

#include <functional>
#include <thread>

namespace lockstep::coordinator {

// Turns the first Ctrl-C (SIGINT) of its lifetime into a call of `act`, on a thread of its own; a
// second one ends the program as if there were no such thing. One at a time in a process.
class Interrupt {
 public:
  explicit Interrupt(std::function<void()> act);
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

 private:
  std::thread watcher_;
};

}  // namespace lockstep::coordinator
