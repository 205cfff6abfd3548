#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <vector>

namespace lockstep::core::cuda {

// A thread of control with a stack of its own, run by the thread that calls resume() until its task
// ends or calls yield(). A context is made once; after that a switch costs two register saves, not
// the system calls of swapcontext.
class Fiber {
 public:
  using Task = void (*)(void* argument);

  explicit Fiber(std::byte* stack, std::size_t stack_bytes);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Begins `task` anew; what was under way before is forgotten, its objects are not destroyed.
  void start(Task task, void* argument);
  void resume();  // by the thread that owns the fiber
  void yield();   // by the task
  bool done() const { return done_; }

 private:
  static void enter(unsigned high, unsigned low);
  [[noreturn]] void loop();
  void prime();

  std::byte* stack_;
  std::size_t stack_bytes_;
  ucontext_t context_{};
  ucontext_t creator_{};
  jmp_buf inside_{};
  jmp_buf outside_{};
  Task task_ = nullptr;
  void* argument_ = nullptr;
  bool primed_ = false;
  bool done_ = true;
  void* outer_fake_stack_ = nullptr;   // of the address sanitizer
  void* inner_fake_stack_ = nullptr;   // likewise
  const void* outer_stack_ = nullptr;  // likewise
  std::size_t outer_stack_bytes_ = 0;  // likewise
};

}  // namespace lockstep::core::cuda
