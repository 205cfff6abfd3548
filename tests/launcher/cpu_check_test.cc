// A binary built for instruction sets that this processor lacks says so and runs nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace lockstep::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(CpuCheckTest, NamesWhatIsMissingBeforeAnythingRuns) {
  const char* binary = std::getenv("LOCKSTEP_FOREIGN_BINARY");
  ASSERT_NE(binary, nullptr) << "set LOCKSTEP_FOREIGN_BINARY, as ctest does";
  FILE* pipe = popen((std::string("'") + binary + "' 2>&1").c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string output;
  std::array<char, 256> buffer{};
  while (fgets(buffer.data(), static_cast<int>(buffer.size()), pipe) != nullptr)
    output += buffer.data();
  const int status = pclose(pipe);
  EXPECT_EQ(WEXITSTATUS(status), 2);
  EXPECT_THAT(output, HasSubstr("lacks: avx9000 tpu\n"));
  EXPECT_THAT(output, HasSubstr("LOCKSTEP_PORTABLE"));
  EXPECT_THAT(output, Not(HasSubstr("ran")));
}

}  // namespace
}  // namespace lockstep::launcher
