// A rank that dies or hangs is an error that names it on every other rank, soon.

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Report {
  int rank = -1;
  int exit = 0;
  double seconds = 0;
  std::string message;
};

// Runs three ranks of the program and collects what the survivors printed.
std::vector<Report> run_job(const std::string& fate) {
  const std::string command = "timeout --kill-after=5 30 " LOCKSTEP_MPIEXEC
                              " --oversubscribe --bind-to none -np 3 " LOCKSTEP_LOST_RANK_PROGRAM
                              " " +
                              fate + " 2>/dev/null";
  std::vector<Report> reports;
  FILE* output = popen(command.c_str(), "r");
  if (output == nullptr) return reports;
  std::array<char, 2000> line{};
  while (fgets(line.data(), line.size(), output) != nullptr) {
    Report report;
    int used = 0;
    if (std::sscanf(line.data(), "rank=%d exit=%d seconds=%lf message=%n", &report.rank,
                    &report.exit, &report.seconds, &used) == 3) {
      report.message = line.data() + used;
      reports.push_back(report);
    }
  }
  pclose(output);
  return reports;
}

void expect_survivors(const std::vector<Report>& reports, const std::string& what) {
  ASSERT_EQ(reports.size(), 2U);
  for (const Report& report : reports) {
    EXPECT_NE(report.rank, 1);
    EXPECT_EQ(report.exit, 5) << report.message;
    EXPECT_LT(report.seconds, 2.0) << report.message;
    EXPECT_NE(report.message.find("rank 1 "), std::string::npos) << report.message;
    EXPECT_NE(report.message.find(what), std::string::npos) << report.message;
  }
}

TEST(LostRank, DeathIsNoticedLongBeforeTheTimeout) {
  expect_survivors(run_job("kill"), "has died");
}

TEST(LostRank, AHangEndsAtTheTimeout) {
  expect_survivors(run_job("stop"), "has not entered all_gather #11 (report)");
}

}  // namespace
