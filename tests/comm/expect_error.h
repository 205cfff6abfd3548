#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "core/error.h"

namespace lockstep::comm::testing {

// `call` throws an Error of this kind whose message holds every one of `parts`.
template <typename Call>
void expect_error(core::ErrorKind kind, std::initializer_list<std::string> parts, Call call) {
  try {
    call();
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << "expected '" << part << "' in: " << error.what();
    return;
  }
  ADD_FAILURE() << "no error was thrown";
}

}  // namespace lockstep::comm::testing
