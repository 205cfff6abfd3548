#include "coordinator/model/failpoint.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>

#include "core/error.h"

namespace lockstep::coordinator {
namespace {

class Failpoint : public ::testing::Test {
 protected:
  ~Failpoint() override { disarm_failpoints(); }
};

TEST_F(Failpoint, NothingHappensUnlessArmed) {
  failpoint("a");
  arm_failpoints("b=error");
  failpoint("a");
}

TEST_F(Failpoint, ErrorsFromTheNthPassOn) {
  arm_failpoints("a@3=error,b=error");
  failpoint("a");
  failpoint("a");
  EXPECT_THROW(failpoint("a"), core::Error);
  EXPECT_THROW(failpoint("a"), core::Error);
  EXPECT_THROW(failpoint("b"), core::Error);
}

TEST_F(Failpoint, Delays) {
  arm_failpoints("a=delay:30");
  const auto begin = std::chrono::steady_clock::now();
  failpoint("a");
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(30));
}

TEST_F(Failpoint, CrashesAsKillDoes) {
  EXPECT_EXIT(
      {
        arm_failpoints("a=crash");
        failpoint("a");
      },
      ::testing::KilledBySignal(SIGKILL), "");
}

TEST_F(Failpoint, RefusesWhatItDoesNotKnow) {
  for (const char* text : {"a", "=crash", "a=boom", "a=delay:", "a=delay:x", "a@0=crash"}) {
    EXPECT_THROW(arm_failpoints(text), core::Error) << text;
  }
}

}  // namespace
}  // namespace lockstep::coordinator
