// What backend.device and backend.comm come to where there are devices and NCCL, on their
// stand-ins.
#include "launcher/device_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "comm/local/local_world.h"
#include "core/cuda/stand_in/machine.h"
#include "core/error.h"
#include "ops/op_bodies.h"
#include "runtime/config/load_config.h"
#include "tests/comm/nccl_stand_in.h"
#include "tests/support/async_device.h"

namespace lockstep::launcher {
namespace {

using comm::testing::clear_nccl_state;
using comm::testing::nccl_stand_in;
using comm::testing::nccl_state;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A module with the two devices of the stand-in; nothing is computed with its operations.
core::CudaModule stand_in_module() {
  static const ops::OpBodies bodies{};
  static const runtime::DecisionBodies decision{};
  static const core::cuda::ModuleDescription description{
      .version = "",
      .runtime_bytes = sizeof(core::DeviceRuntime),
      .bodies_bytes = sizeof(bodies),
      .decision_bytes = sizeof(decision),
      .runtime = &lockstep::testing::async_runtime(),
      .op_bodies = &bodies,
      .decision_bodies = &decision,
      .versions = [](core::cuda::ModuleVersions*) { FAIL(); }};
  return {&description, ""};
}
core::CudaModule no_module() {
  return {nullptr, "it was left out"};
}
core::CudaModule unwanted_module() {
  ADD_FAILURE() << "a device was looked for";
  return no_module();
}

const comm::NcclLibrary& stand_in_library() {
  static const comm::NcclLibrary library{&nccl_stand_in(), 22809, "stand-in", ""};
  return library;
}
const comm::NcclLibrary& unwanted_library() {
  ADD_FAILURE() << "NCCL was looked for";
  return stand_in_library();
}

// What every rank came to, or the error of all.
struct Outcome {
  runtime::DeviceChoice device = runtime::DeviceChoice::kAuto;  // as the config says afterwards
  std::vector<core::Device> devices;                            // by rank
  std::string backend;
  std::string error;
};

class DeviceChoiceTest : public ::testing::Test {
 protected:
  DeviceChoiceTest() {
    // As outside of an MPI launcher, and as if NCCL had never been asked for anything.
    for (const char* variable :
         {"OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_LOCALID",
          "SLURM_NTASKS_PER_NODE", "NCCL_HOSTID", "NCCL_ALGO", "NCCL_PROTO", "NCCL_NVLS_ENABLE"}) {
      unsetenv(variable);
    }
    clear_nccl_state();
  }
  ~DeviceChoiceTest() override { unsetenv("NCCL_HOSTID"); }

  static Outcome connect(int ranks, const std::vector<std::string>& overrides,
                         const DeviceLibraries& libraries) {
    Outcome outcome;
    outcome.devices.resize(static_cast<std::size_t>(ranks));
    const comm::LocalWorld world(ranks, std::chrono::seconds(30));
    try {
      world.run(
          [&](comm::Communicator& communicator) {
            if (communicator.rank() == 0) outcome.backend = communicator.backend();
            communicator.barrier("all are connected");
          },
          [&](std::unique_ptr<comm::Communicator> host) {
            const int rank = host->rank();
            runtime::Config config = config_with(overrides);
            core::Logger log(rank, ranks, core::LogLevel::kError);
            RankBackend backend = connect_ranks(config, std::move(host), libraries, log);
            outcome.devices[static_cast<std::size_t>(rank)] = backend.device.device.device;
            if (rank == 0) outcome.device = config.backend.device;
            return std::move(backend.communicator);
          });
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
      outcome.error = error.what();
    }
    return outcome;
  }

  static runtime::Config config_with(const std::vector<std::string>& overrides) {
    return runtime::parse_config(
        "model: {layers: 1, heads: 1, width: 8, context: 8, vocab: 32}\n"
        "data: {train: tokens.bin}\n"
        "batch: {global: 12, micro: 1}\n"
        "train: {steps: 1}\n"
        "optimizer: {learning_rate: 1e-3}\n",
        "test.yaml", overrides);
  }
};

constexpr core::Device kCuda{core::DeviceType::kCuda, 0};
constexpr core::Device kCpu{};

TEST_F(DeviceChoiceTest, AutoIsCudaAndNcclWhereEveryRankFindsADevice) {
  const Outcome found = connect(2, {}, {stand_in_module, stand_in_library});
  EXPECT_EQ(found.error, "");
  EXPECT_EQ(found.device, runtime::DeviceChoice::kCuda);
  EXPECT_EQ(found.devices[0], kCuda);
  EXPECT_EQ(found.backend, "nccl");
  EXPECT_FALSE(nccl_state().calls.empty());
}

TEST_F(DeviceChoiceTest, OneRankNeedsNoNccl) {
  const Outcome found = connect(1, {}, {stand_in_module, unwanted_library});
  EXPECT_EQ(found.device, runtime::DeviceChoice::kCuda);
  EXPECT_EQ(found.backend, "local");  // as the host's is called
}

TEST_F(DeviceChoiceTest, NcclIsAskedForSumsThatRepeatWhereTheRunPromisesBits) {
  connect(2, {"run.reproducible=none"}, {stand_in_module, stand_in_library});
  EXPECT_EQ(std::getenv("NCCL_ALGO"), nullptr);
  connect(2, {}, {stand_in_module, stand_in_library});
  ASSERT_NE(std::getenv("NCCL_ALGO"), nullptr);
  EXPECT_STREQ(std::getenv("NCCL_ALGO"), "Ring");
}

TEST_F(DeviceChoiceTest, AutoIsTheCpuWithoutADeviceForEachRank) {
  for (const auto& [ranks, module] : {std::pair{2, &no_module}, {3, &stand_in_module}}) {
    const Outcome found = connect(ranks, {}, {module, unwanted_library});
    EXPECT_EQ(found.error, "");
    EXPECT_EQ(found.device, runtime::DeviceChoice::kCpu);
    EXPECT_EQ(found.devices[0], kCpu);
    EXPECT_EQ(found.backend, "local");
  }
}

TEST_F(DeviceChoiceTest, CudaThatIsAskedForAndMissingIsAnErrorThatSaysWhatToDo) {
  EXPECT_THAT(connect(2, {"backend.device=cuda"}, {no_module, unwanted_library}).error,
              AllOf(HasSubstr("rank 0"), HasSubstr("it was left out")));
  EXPECT_THAT(connect(3, {"backend.device=cuda"}, {stand_in_module, unwanted_library}).error,
              AllOf(HasSubstr("3 ranks on this host, and 2 CUDA devices are visible"),
                    HasSubstr("backend.comm: mpi")));
}

TEST_F(DeviceChoiceTest, RanksShareDevicesOverMpi) {
  const Outcome found = connect(3, {"backend.comm=mpi"}, {stand_in_module, unwanted_library});
  EXPECT_EQ(found.error, "");
  EXPECT_EQ(found.device, runtime::DeviceChoice::kCuda);
  EXPECT_EQ(found.devices[2].type, core::DeviceType::kCuda);
  EXPECT_EQ(found.backend, "local");
}

TEST_F(DeviceChoiceTest, RanksShareDevicesWhereNcclTakesThemForOtherHosts) {
  setenv("NCCL_HOSTID", "one of many", 1);
  const Outcome found = connect(3, {}, {stand_in_module, stand_in_library});
  EXPECT_EQ(found.error, "");
  EXPECT_EQ(found.device, runtime::DeviceChoice::kCuda);
  EXPECT_EQ(found.backend, "nccl");
}

TEST_F(DeviceChoiceTest, TheCpuIsTakenUnseenWhereNothingElseMayBe) {
  for (const char* reason : {"backend.device=cpu", "run.reproducible=ranks"}) {
    const Outcome found = connect(2, {reason}, {unwanted_module, unwanted_library});
    EXPECT_EQ(found.error, "");
    EXPECT_EQ(found.device, runtime::DeviceChoice::kCpu);
    EXPECT_EQ(found.backend, "local");
  }
}

TEST_F(DeviceChoiceTest, NcclIsRefusedOnTheCpu) {
  EXPECT_THAT(connect(2, {"backend.comm=nccl"}, {no_module, unwanted_library}).error,
              AllOf(HasSubstr("backend.comm is nccl"), HasSubstr("computes on the CPU")));
}

}  // namespace
}  // namespace lockstep::launcher
