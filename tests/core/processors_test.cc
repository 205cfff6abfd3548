#include "core/processors.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cmath>

#include "tests/support/temporary_directory.h"

namespace lockstep::core {
namespace {

TEST(ProcessorsTest, CountsWhatTheAffinityAllows) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  EXPECT_EQ(cores_of_affinity(), CPU_COUNT(&before));
  int first = 0;
  while (!CPU_ISSET(first, &before))
    ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(cores_of_affinity(), 1);
  EXPECT_EQ(usable_cores(), 1);
  EXPECT_EQ(affinity_text(), std::to_string(first));
  ASSERT_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
}

TEST(ProcessorsTest, TakesTheLeastQuotaOfTheGroupsAround) {
  const testing::TemporaryDirectory root;
  root.write("proc/self/cgroup", "0::/outer/inner\n");
  EXPECT_TRUE(std::isinf(cores_of_quota(root.path())));
  root.write("sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n");
  EXPECT_TRUE(std::isinf(cores_of_quota(root.path())));
  root.write("sys/fs/cgroup/outer/cpu.max", "150000 100000\n");
  EXPECT_EQ(cores_of_quota(root.path()), 1.5);
}

TEST(ProcessorsTest, ReadsQuotasOfVersion1) {
  const testing::TemporaryDirectory root;
  root.write("proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/job\n");
  root.write("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "300000\n");
  root.write("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cores_of_quota(root.path()), 3.0);
}

}  // namespace
}  // namespace lockstep::core
