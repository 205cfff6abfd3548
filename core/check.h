#pragma once

#include <fmt/format.h>

#include "core/error.h"

// Checks of invariants. A failed check is a bug in Lockstep (ErrorKind::kInternal), never a way to
// report bad input: bad input throws Error with its own kind and its own words.
//
//   LOCKSTEP_CHECK(condition, "format {}", arguments...)
//   LOCKSTEP_CHECK_EQ(a, b, "what is compared")          prints both values

#define LOCKSTEP_CHECK(condition, ...)                                                        \
  do {                                                                                        \
    if (!(condition)) [[unlikely]]                                                            \
      ::lockstep::core::fail_check(__FILE__, __LINE__, #condition, fmt::format(__VA_ARGS__)); \
  } while (false)

#define LOCKSTEP_CHECK_OP(op, a, b, what)                                              \
  do {                                                                                 \
    const auto& lockstep_check_a = (a);                                                \
    const auto& lockstep_check_b = (b);                                                \
    if (!(lockstep_check_a op lockstep_check_b)) [[unlikely]]                          \
      ::lockstep::core::fail_check(                                                    \
          __FILE__, __LINE__, #a " " #op " " #b,                                       \
          fmt::format("{}: {} against {}", what, lockstep_check_a, lockstep_check_b)); \
  } while (false)

#define LOCKSTEP_CHECK_EQ(a, b, what) LOCKSTEP_CHECK_OP(==, a, b, what)
#define LOCKSTEP_CHECK_LE(a, b, what) LOCKSTEP_CHECK_OP(<=, a, b, what)
#define LOCKSTEP_CHECK_LT(a, b, what) LOCKSTEP_CHECK_OP(<, a, b, what)

namespace lockstep::core {

[[noreturn]] void fail_check(const char* file, int line, const char* condition,
                             const std::string& message);

}  // namespace lockstep::core
