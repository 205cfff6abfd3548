#include "ops/cuda/cudnn/plan.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

// That cuDNN takes the graphs and has engines for them, on devices that are only described.
namespace lockstep::ops::cuda {
namespace {

struct Machine {
  const char* name;
  int version;  // compute capability, 900 for 9.0
  int multiprocessors;
  int shared_memory;  // bytes that a block may ask for
};

constexpr Machine kHopper{"NVIDIA H200", 900, 132, 232448};
constexpr Machine kAmpere{"NVIDIA A100", 800, 108, 166912};

std::string json_of(const Machine& machine) {
  return fmt::format(
      R"({{"cudaDeviceId":0,"deviceName":"{}","deviceVer":{},"driverVer":13000,)"
      R"("multiProcessorCount":{},"totalGlobalMem":85899345920,"l2CacheSize":52428800,)"
      R"("smClockRateKHz":1980000,"memClockRateKHz":2619000,"warpSize":32,)"
      R"("maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],)"
      R"("maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"maxCtasPerSM":32,)"
      R"("regsPerBlock":65536,"maxRegistersPerSM":65536,"maxSharedMemoryPerBlock":49152,)"
      R"("maxSharedMemoryPerBlockOptin":{},"reservedSharedMemoryPerBlock":1024,)"
      R"("pciDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1}})",
      machine.name, machine.version, machine.multiprocessors, machine.shared_memory);
}

struct Shape {
  std::int64_t sequences, heads, kv_heads, length, width;
};

// q, k and v in one row, as the model has them.
AttentionProblem problem_of(const Shape& s, bool causal, bool backward, cudnnDataType_t dtype) {
  const std::int64_t packed = (s.heads + 2 * s.kv_heads) * s.width;
  const std::int64_t row = s.heads * s.width;
  AttentionProblem p{};
  p.backward = backward;
  p.sequences = s.sequences;
  p.length = s.length;
  p.heads = s.heads;
  p.kv_heads = s.kv_heads;
  p.width = s.width;
  p.causal = causal;
  p.dtype = dtype;
  p.strides = {packed, packed, packed, row, s.length, 0, 0, 0, 0};
  if (backward) {
    p.strides.dout = row;
    p.strides.dq = p.strides.dk = p.strides.dv = packed;
  }
  return p;
}

class CudnnPlan : public testing::Test {
 protected:
  void SetUp() override {
    // By its name inside, the stub then is the libcuda.so.1 that cuDNN looks for.
    if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) == nullptr &&
        dlopen(LOCKSTEP_DRIVER_STUB, RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      GTEST_SKIP() << "no driver, and no " << LOCKSTEP_DRIVER_STUB;
    }
    try {
      library_ = std::make_unique<CudnnLibrary>(CudnnLibrary::open());
    } catch (const CudnnRefusal& refusal) {
      GTEST_SKIP() << refusal.what();
    }
  }

  std::size_t proposals(const Machine& machine, const AttentionProblem& problem) const {
    const CudnnDescriptor device = describe_device(*library_, json_of(machine));
    return AttentionProposals(*library_, problem, {nullptr, &device}).size();
  }
  void expect_planned(const Machine& machine, const Shape& s) const {
    for (const cudnnDataType_t dtype : {CUDNN_DATA_BFLOAT16, CUDNN_DATA_HALF})
      for (const bool causal : {false, true})
        for (const bool backward : {false, true}) {
          const std::string what = fmt::format(
              "{}: {} B={} H={}/{} T={} D={}{}", machine.name, backward ? "backward" : "forward",
              s.sequences, s.heads, s.kv_heads, s.length, s.width, causal ? " causal" : "");
          SCOPED_TRACE(what);
          EXPECT_NO_THROW(
              EXPECT_GT(proposals(machine, problem_of(s, causal, backward, dtype)), 0U));
        }
  }

  std::unique_ptr<CudnnLibrary> library_;
};

TEST_F(CudnnPlan, ModelsAreServed) {
  for (const Machine& machine : {kHopper, kAmpere})
    for (const Shape& shape : {Shape{64, 12, 12, 1024, 64}, Shape{16, 25, 25, 1024, 64},
                               Shape{8, 16, 16, 2048, 128}, Shape{2, 3, 3, 200, 80}})
      expect_planned(machine, shape);
}

TEST_F(CudnnPlan, OddLengthsAndSharedKeysAreServed) {
  for (const Machine& machine : {kHopper, kAmpere})
    for (const Shape& shape : {Shape{2, 3, 3, 201, 64}, Shape{1, 1, 1, 2, 64},
                               Shape{2, 8, 2, 512, 64}, Shape{1, 6, 1, 129, 128}})
      expect_planned(machine, shape);
}

// What cuDNN does not take is an error of its own kind, with its words: the own kernels serve then.
TEST_F(CudnnPlan, RefusalsAreTold) {
  const auto refuses = [&](const AttentionProblem& problem) {
    try {
      proposals(kHopper, problem);
      return std::string();
    } catch (const CudnnRefusal& refusal) {
      return std::string(refusal.what());
    }
  };
  const Shape usual{2, 3, 3, 200, 80};
  EXPECT_EQ(refuses(problem_of(usual, true, true, CUDNN_DATA_BFLOAT16)), "");
  EXPECT_NE(refuses(problem_of({2, 3, 3, 200, 81}, true, true, CUDNN_DATA_BFLOAT16)), "");
  EXPECT_NE(refuses(problem_of(usual, true, true, CUDNN_DATA_FLOAT)), "");
}

}  // namespace
}  // namespace lockstep::ops::cuda
