#include "core/device_runtime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/cuda/stand_in/machine.h"
#include "core/cuda_module.h"
#include "core/error.h"
#include "core/memory.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::core {
namespace {

using cuda::stand_in_runtime;
using cuda::stand_in_settings;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Puts the settings back.
class DeviceRuntimeTest : public ::testing::Test {
 protected:
  ~DeviceRuntimeTest() override { stand_in_settings() = {}; }

  DeviceRef device() { return open_device(stand_in_runtime(), 0); }

  // The kind of the error that f throws; its message goes to message_.
  template <typename F>
  ErrorKind kind_of(F&& f) {
    try {
      f();
    } catch (const Error& e) {
      message_ = e.what();
      return e.kind();
    }
    ADD_FAILURE() << "nothing was thrown";
    return ErrorKind::kStopped;
  }

  std::string message_;
};

TEST_F(DeviceRuntimeTest, BufferOfADeviceIsZeroCountedAndGivenBack) {
  MemoryTracker memory;
  std::size_t free_before = 0;
  std::size_t free_now = 0;
  std::size_t total = 0;
  stand_in_runtime().memory_info(0, &free_before, &total);
  {
    Buffer buffer(memory, "activations", 4096, device());
    EXPECT_EQ(buffer.device(), (Device{DeviceType::kCuda, 0}));
    EXPECT_EQ(memory.regions().at("activations").current, 4096U);
    const TensorView view = buffer.view(DType::kF32, {16, 64});
    EXPECT_EQ(view.device(), buffer.device());
    std::vector<float> values(1024, 1.0F);
    const DeviceStream stream(device());
    stream.to_host(values.data(), view.raw(), view.bytes());
    EXPECT_EQ(values, std::vector<float>(1024, 0.0F));
    Buffer moved = std::move(buffer);
    EXPECT_TRUE(buffer.empty());
    stand_in_runtime().memory_info(0, &free_now, &total);
    EXPECT_EQ(free_before - free_now, 4096U);
  }
  EXPECT_EQ(memory.current(), 0U);
  stand_in_runtime().memory_info(0, &free_now, &total);
  EXPECT_EQ(free_before, free_now);
}

TEST_F(DeviceRuntimeTest, OutOfDeviceMemoryIsItsOwnKind) {
  MemoryTracker memory;
  stand_in_settings().memory_bytes = 1 << 20;
  EXPECT_EQ(kind_of([&] { Buffer(memory, "optimizer", 2 << 20, device()); }),
            ErrorKind::kOutOfMemory);
  EXPECT_THAT(message_, HasSubstr("cannot allocate 2.0 MiB for optimizer on cuda:0"));
  EXPECT_EQ(memory.current(), 0U);
}

TEST_F(DeviceRuntimeTest, NoDeviceOldDriverAndWrongOrdinalAreConfigurationErrors) {
  EXPECT_EQ(kind_of([] { open_device(stand_in_runtime(), 5); }), ErrorKind::kConfig);
  EXPECT_THAT(message_, HasSubstr("device 5 was asked for, but stand-in finds 2 devices"));
  stand_in_settings().devices = 0;
  EXPECT_EQ(kind_of([] { open_device(stand_in_runtime(), 0); }), ErrorKind::kConfig);
  EXPECT_THAT(message_, HasSubstr("no such device"));
  EXPECT_THAT(message_, HasSubstr("backend.device: cpu"));
  stand_in_settings().failure_of_count = cuda::kStandInOldDriver;
  EXPECT_EQ(kind_of([] { open_device(stand_in_runtime(), 0); }), ErrorKind::kConfig);
  EXPECT_THAT(message_, HasSubstr("the driver is too old"));
  EXPECT_THAT(message_, HasSubstr("install a driver"));
  EXPECT_EQ(why_no_device(stand_in_runtime()), "the driver is too old");
  EXPECT_THAT(describe_devices(stand_in_runtime()), ElementsAre("none: the driver is too old"));
}

TEST_F(DeviceRuntimeTest, ACopyFromTheWrongMemoryFails) {
  MemoryTracker memory;
  Buffer buffer(memory, "test", 64, device());
  const DeviceStream stream(device());
  std::vector<std::byte> host(64);
  EXPECT_EQ(kind_of([&] { stream.to_device(host.data(), buffer.data(), 64); }),
            ErrorKind::kInternal);
  EXPECT_THAT(message_, HasSubstr("an address in the wrong memory"));
  EXPECT_EQ(kind_of([&] { stream.to_host(host.data(), buffer.data(), 65); }), ErrorKind::kInternal);
  EXPECT_EQ(kind_of([&] { stream.fill(host.data(), 0, 64); }), ErrorKind::kInternal);
}

// The edges between two streams, as a recorded sequence.
TEST_F(DeviceRuntimeTest, EventsOrderStreams) {
  const DeviceStream compute(device());
  const DeviceStream communication(device());
  DeviceEvent ready(device());
  std::vector<std::string> calls;
  stand_in_settings().record = &calls;
  ready.hold_back(communication);
  ready.record(compute);
  ready.hold_back(communication);
  communication.synchronize();
  stand_in_settings().record = nullptr;
  EXPECT_THAT(calls, ElementsAre("wait for an event that was never recorded", "record", "wait",
                                 "synchronize"));
  EXPECT_TRUE(ready.finished());
}

TEST_F(DeviceRuntimeTest, AnAbsentModuleSaysWhy) {
  const lockstep::testing::TemporaryDirectory folder;
  const CudaModule module = load_cuda_module({folder.path()});
  EXPECT_EQ(module.description, nullptr);
  // Without CUDA in the build the reason is another one.
  EXPECT_THAT(module.why_absent, ::testing::AnyOf(HasSubstr("liblockstep_cuda.so is not in"),
                                                  HasSubstr("LOCKSTEP_CUDA")));
  EXPECT_EQ(kind_of([&] { module.runtime(); }), ErrorKind::kConfig);
  EXPECT_THAT(message_, HasSubstr("CUDA is absent"));
}

TEST_F(DeviceRuntimeTest, AFileThatIsNoModuleIsAbsentToo) {
  const lockstep::testing::TemporaryDirectory folder;
  std::ofstream(folder.path() / cuda::kModuleFile) << "not a library";
  const CudaModule module = load_cuda_module({folder.path()});
  EXPECT_EQ(module.description, nullptr);
  EXPECT_THAT(module.why_absent,
              ::testing::AnyOf(HasSubstr("cannot be loaded"), HasSubstr("LOCKSTEP_CUDA")));
}

// Of the module beside this program: on a machine without a GPU it loads and says what is missing.
TEST_F(DeviceRuntimeTest, TheModuleOfThisBuildAnswers) {
  const CudaModule module = load_cuda_module();
  if (module.description == nullptr) GTEST_SKIP() << "no CUDA module: " << module.why_absent;
  cuda::ModuleVersions versions{};
  module.description->versions(&versions);
  EXPECT_THAT(versions.cuda, HasSubstr("driver"));
  EXPECT_NE(versions.cublaslt[0], '\0');
  EXPECT_NE(versions.cudnn[0], '\0');
  EXPECT_NE(versions.nccl[0], '\0');
  const std::string why = why_no_device(module.runtime());
  if (why.empty()) {
    EXPECT_EQ(open_device(module.runtime(), 0).device.type, DeviceType::kCuda);
  } else {
    EXPECT_EQ(kind_of([&] { open_device(module.runtime(), 0); }), ErrorKind::kConfig);
    EXPECT_THAT(message_, HasSubstr(why));
  }
}

}  // namespace
}  // namespace lockstep::core
