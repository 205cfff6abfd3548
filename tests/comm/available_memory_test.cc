#include "comm/mpi/available_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace lockstep::comm {
namespace {

TEST(AvailableMemory, IsSomethingAndNotMoreThanTheMachineHas) {
  const auto pages = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES));
  const auto machine = pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t available = available_memory();
  EXPECT_GT(available, 0U);
  EXPECT_GE(memory_capacity(), available);
  EXPECT_LT(available, 2 * machine);  // swap may add to it; "unlimited" would be far more
}

}  // namespace
}  // namespace lockstep::comm
