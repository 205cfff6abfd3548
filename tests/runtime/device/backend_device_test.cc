#include "runtime/device/backend_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace lockstep::runtime {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(BackendDevice, TheCpuIsTakenWhereItIsAskedFor) {
  EXPECT_FALSE(uses_cuda(DeviceChoice::kCpu, {"", ""}));
}

TEST(BackendDevice, AutoTakesCudaOnlyWhereEveryRankFindsADevice) {
  EXPECT_TRUE(uses_cuda(DeviceChoice::kAuto, {"", ""}));
  EXPECT_FALSE(uses_cuda(DeviceChoice::kAuto, {"", "no driver"}));
}

TEST(BackendDevice, CudaThatIsMissingNamesTheRankAndTheReason) {
  EXPECT_TRUE(uses_cuda(DeviceChoice::kCuda, {"", ""}));
  try {
    uses_cuda(DeviceChoice::kCuda, {"", "no driver", "no device"});
    FAIL() << "accepted";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("rank 1"), HasSubstr("no driver"),
                                    HasSubstr("backend.device: cpu")));
  }
}

TEST(BackendDevice, AModuleThatIsAbsentSaysWhy) {
  const DeviceSearch search = find_cuda_device({nullptr, "it was left out"}, {}, false);
  EXPECT_TRUE(search.found.on_cpu());
  EXPECT_THAT(search.why_not, HasSubstr("it was left out"));
}

}  // namespace
}  // namespace lockstep::runtime
