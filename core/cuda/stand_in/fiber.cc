#include "core/cuda/stand_in/fiber.h"

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace lockstep::core::cuda {

namespace {

// The address sanitizer must know which stack is in use.
#if defined(__SANITIZE_ADDRESS__)
void begin_switch(void** save, const void* stack, std::size_t bytes) {
  __sanitizer_start_switch_fiber(save, stack, bytes);
}
void end_switch(void* saved, const void** from_stack, std::size_t* from_bytes) {
  __sanitizer_finish_switch_fiber(saved, from_stack, from_bytes);
}
#else
void begin_switch(void**, const void*, std::size_t) {}
void end_switch(void*, const void**, std::size_t*) {}
#endif

}  // namespace

Fiber::Fiber(std::byte* stack, std::size_t stack_bytes)
    : stack_(stack), stack_bytes_(stack_bytes) {}

void Fiber::enter(unsigned high, unsigned low) {
  const std::uintptr_t address = (static_cast<std::uintptr_t>(high) << 32) | low;
  reinterpret_cast<Fiber*>(address)->loop();
}

void Fiber::loop() {
  end_switch(nullptr, &outer_stack_, &outer_stack_bytes_);
  yield();  // primed
  for (;;) {
    task_(argument_);
    done_ = true;
    yield();
  }
}

// Runs the new context up to its first yield(), from where longjmp can reach it.
void Fiber::prime() {
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = stack_bytes_;
  context_.uc_link = nullptr;
  const auto address = reinterpret_cast<std::uintptr_t>(this);
  makecontext(&context_, reinterpret_cast<void (*)()>(&Fiber::enter), 2,
              static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
  begin_switch(&outer_fake_stack_, stack_, stack_bytes_);
  if (_setjmp(outside_) == 0) swapcontext(&creator_, &context_);
  end_switch(outer_fake_stack_, nullptr, nullptr);
  primed_ = true;
}

void Fiber::start(Task task, void* argument) {
  if (!primed_ || !done_) prime();
  task_ = task;
  argument_ = argument;
  done_ = false;
}

void Fiber::resume() {
  begin_switch(&outer_fake_stack_, stack_, stack_bytes_);
  if (_setjmp(outside_) == 0) _longjmp(inside_, 1);
  end_switch(outer_fake_stack_, nullptr, nullptr);
}

void Fiber::yield() {
  begin_switch(&inner_fake_stack_, outer_stack_, outer_stack_bytes_);
  if (_setjmp(inside_) == 0) _longjmp(outside_, 1);
  end_switch(inner_fake_stack_, &outer_stack_, &outer_stack_bytes_);
}

}  // namespace lockstep::core::cuda
