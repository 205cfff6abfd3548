#pragma once

#include <fmt/format.h>

#include <string>

#include "tests/coordinator/system/job_control_test.h"

namespace lockstep::testing {

// Runs that are disturbed, and whose curve must be that of an undisturbed one all the same.
class Undisturbed : public JobControlTest {
 protected:
  static constexpr int kSteps = 60;

  void SetUp() override {
    JobControlTest::SetUp();
    must_train({.ranks = 2, .output = "undisturbed", .timeout_seconds = 300});
    // A rank that sleeps for a second changes nothing, but leaves the time to disturb the run.
    directory_.write("config.yaml", text("config.yaml") + R"(
fault: [{kind: slow, step: 6}, {kind: slow, step: 14}, {kind: slow, step: 22, rank: 1},
        {kind: slow, step: 30}, {kind: slow, step: 38}, {kind: slow, step: 46, rank: 1}]
)");
  }
  void expect_undisturbed(const std::string& output) const {
    expect_same_run(output, "undisturbed", kSteps);
  }

  // Faults for --set: rank 0 sleeps for a second in each of these steps; `more`: further ones.
  static std::string sleeps(int first, int last, const std::string& more = "") {
    std::string faults = more;
    for (int step = first; step <= last; ++step)
      faults += fmt::format("{}{{kind: slow, step: {}}}", faults.empty() ? "" : ", ", step);
    return "fault=[" + faults + "]";
  }
};

}  // namespace lockstep::testing
