#pragma once

#include <signal.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace lockstep::core {

// Signals in a process that computes.
//
// oneDNN's matrix products keep data in the stack register and below: a handler that runs on the
// stack of a thread inside of one overwrites the heap. So no handler may run on a thread that
// computes, whoever installed it: hold_signals() comes first of all in the process, every thread
// inherits it, and one SignalThread takes what arrives.

// Blocks every signal in this thread, and so in all that it starts from now on, but those that a
// thread raises itself: its faults, and SIGPIPE. For a call before main: touches no global.
void hold_signals() noexcept;

// The opposite, for a program or a thread that lives with signals as they are.
void release_signals() noexcept;

// The numbers of signals as set for pthread_sigmask and signalfd.
sigset_t signal_set(const std::vector<int>& signals) noexcept;

// The thread of this process in which signals have their effect. One at a time, while all other
// threads hold signals.
//
// `taken` signals are passed to `on_signal`, on this thread, once each time that they arrive; also
// those that arrived before. All others have their default effect, or run the handler that a
// library installed, on this thread's own stack.
class SignalThread {
 public:
  explicit SignalThread(const std::vector<int>& taken = {},
                        std::function<void(int signal)> on_signal = {});
  ~SignalThread();
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

  // Also calls `on_input` on this thread whenever the descriptor can be read, until it returns
  // false. The descriptor outlives this object. Once, at most.
  void watch(int descriptor, std::function<bool()> on_input);

 private:
  void run();

  sigset_t taken_{};
  std::function<void(int)> on_signal_;
  std::function<bool()> on_input_;
  int signals_ = -1;  // signalfd of taken_
  int wake_ = -1;     // eventfd: look again
  std::atomic<bool> ends_{false};
  std::atomic<int> watched_{-1};
  std::thread thread_;
};

}  // namespace lockstep::core
