// What `lockstep bench comm` and `lockstep bench step` measure of communication on a device: ranks
// as threads, over the stand-ins for a device and for NCCL.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <vector>

#include "comm/device/staged_communicator.h"
#include "comm/local/local_world.h"
#include "comm/nccl/nccl_communicator.h"
#include "core/cuda/stand_in/machine.h"
#include "launcher/bench/device_comm_bench.h"
#include "launcher/bench/step_bench.h"
#include "ops/cuda/stand_in_bodies.h"
#include "runtime/config/load_config.h"
#include "runtime/cuda/decision_kernels.h"
#include "tests/comm/nccl_stand_in.h"
#include "tests/support/async_device.h"

namespace lockstep::launcher {
namespace {

using comm::Communicator;
using comm::testing::NcclFaults;
using lockstep::testing::async_runtime;
using ops::Determinism;
using ops::OpContext;
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

constexpr std::size_t kBytes = 4096;

std::atomic<int> host_waits{0};

// The asynchronous stand-in, counting how often the host waits for a stream.
core::DeviceRef device_under_test() {
  static const core::DeviceRuntime runtime = [] {
    core::DeviceRuntime r = async_runtime();
    r.synchronize = [](core::DeviceStreamHandle* stream) {
      ++host_waits;
      return async_runtime().synchronize(stream);
    };
    return r;
  }();
  return core::open_device(runtime, 0);
}

std::unique_ptr<Communicator> over_nccl(std::unique_ptr<Communicator> host) {
  return comm::make_nccl_communicator(std::move(host), device_under_test(),
                                      comm::testing::nccl_stand_in(), {});
}

std::unique_ptr<Communicator> over_host_memory(std::unique_ptr<Communicator> host) {
  return comm::make_staged_communicator(std::move(host), device_under_test());
}

DeviceCommOptions quick(std::vector<std::size_t> sizes = {kBytes}) {
  DeviceCommOptions options;
  options.sizes = std::move(sizes);
  options.limits = {3, 0.0, 10.0};
  options.copy_bytes = 1 << 20;
  return options;
}

// What each rank reports.
std::vector<std::vector<CommMeasurement>> measure(int ranks, const comm::LocalWorld::Wrap& wrap,
                                                  const DeviceCommOptions& options = quick(),
                                                  const NcclFaults& faults = {}) {
  comm::testing::clear_nccl_state(faults);
  std::vector<std::vector<CommMeasurement>> reports(static_cast<std::size_t>(ranks));
  const comm::LocalWorld world(ranks, 60s);
  world.run(
      [&](Communicator& communicator) {
        core::MemoryTracker memory;
        OpContext context(1, memory, device_under_test(), ops::cuda::stand_in_op_bodies(),
                          Determinism::kRun);
        communicator.work_on(context.stream());
        auto& report = reports[static_cast<std::size_t>(communicator.rank())];
        measure_device_comm(communicator, context, memory, options,
                            [&](const CommMeasurement& m) { report.push_back(m); });
        communicator.barrier("end");
      },
      wrap);
  return reports;
}

double traffic_of(const CommMeasurement& m, double ranks) {
  const auto bytes = static_cast<double>(m.bytes);
  if (m.collective == "reduce_scatter") return (ranks + 1) * bytes;
  if (m.collective == "all_gather") return 2 * ranks * bytes;
  return (ranks + 1) * bytes + 2 * (ranks - 1) * bytes;
}

void expect_sound(const std::vector<CommMeasurement>& report, double ranks) {
  std::vector<std::string> names;
  for (const CommMeasurement& m : report) {
    SCOPED_TRACE(m.collective + " " + m.dtype);
    names.push_back(m.collective + " " + m.dtype);
    EXPECT_EQ(m.bytes, divisible_size(kBytes, static_cast<int>(ranks)));
    EXPECT_GT(m.time.seconds, 0.0);
    EXPECT_LE(m.time.fastest_seconds, m.time.seconds);
    EXPECT_GE(m.time.slowest_seconds, m.time.seconds);
    EXPECT_EQ(m.time.repetitions, 3);
    const double algorithm = static_cast<double>(m.bytes) / m.time.seconds / 1e9;
    const double factor = (m.collective == "all_reduce" ? 2 : 1) * (ranks - 1) / ranks;
    EXPECT_DOUBLE_EQ(m.algorithm_gb_per_s, algorithm);
    EXPECT_DOUBLE_EQ(m.bus_gb_per_s, factor * algorithm);
    EXPECT_GT(m.copy_gb_per_s, 0.0);
    EXPECT_DOUBLE_EQ(m.fraction_of_copy,
                     traffic_of(m, ranks) / m.time.seconds / (m.copy_gb_per_s * 1e9));
  }
  EXPECT_THAT(
      names, ::testing::ElementsAre("reduce_scatter fp32", "reduce_scatter bf16", "all_gather fp32",
                                    "all_gather bf16", "all_reduce fp32", "all_reduce bf16"));
}

TEST(DeviceCommBench, MeasuresEveryCollectiveOnEveryBackend) {
  for (const int ranks : {1, 2}) {
    for (const auto& wrap : {over_nccl, over_host_memory}) {
      const auto reports = measure(ranks, wrap);
      expect_sound(reports[0], ranks);
      for (const auto& report : reports) {  // of the slowest rank, so the same on all
        ASSERT_EQ(report.size(), reports[0].size());
        for (std::size_t i = 0; i < report.size(); ++i)
          EXPECT_EQ(report[i].time.seconds, reports[0][i].time.seconds);
      }
    }
  }
}

TEST(DeviceCommBench, TellsWhatACollectiveOfTheSlowestRankTakes) {
  const auto reports = measure(2, over_nccl, quick(), {.rank = 1, .slower = 5ms});
  for (const CommMeasurement& m : reports[0])
    EXPECT_GE(m.time.fastest_seconds, 5e-3) << m.collective;
}

// The same number of times, however many calls a repetition has.
TEST(DeviceCommBench, TheHostDoesNotWaitBetweenCalls) {
  const auto waits = [](double least_seconds) {
    DeviceCommOptions options = quick();
    options.limits.least_seconds = least_seconds;
    options.limits.repetitions = 1;
    const int before = host_waits;
    std::size_t calls = 0;
    {
      measure(2, over_nccl, options);
      const std::lock_guard lock(comm::testing::nccl_state().mutex);
      calls = comm::testing::nccl_state().calls.size();
    }
    return std::pair(host_waits - before, calls);
  };
  const auto [few_waits, few_calls] = waits(0.0);
  const auto [many_waits, many_calls] = waits(0.5);
  EXPECT_GT(many_calls, 2 * few_calls);
  // Copies of the ceiling come in as many repetitions, each with one wait.
  EXPECT_EQ(many_waits, few_waits);
}

// ---- lockstep bench step --------------------------------------------------------------------

constexpr const char* kTiny =
    "model: {layers: 2, heads: 2, width: 16, context: 8, vocab: 32}\n"
    "data: {train: missing.bin}\n"
    "batch: {global: 4, micro: 1}\n"
    "train: {steps: 4}\n"
    "optimizer: {learning_rate: 1e-3}\n"
    "backend: {threads: 1}\n";

// Gradients and parameters of two ranks of one device, through host memory.
TEST(StepBench, SplitsTheCommunicationOfADevice) {
  core::cuda::stand_in_settings().memory_bytes = std::size_t{100} << 20;  // no room for a product
  const runtime::DecisionBodies decision = runtime::cuda::decision_kernels();
  const runtime::BackendDevice device{core::open_device(core::cuda::stand_in_runtime(), 0),
                                      &ops::cuda::stand_in_op_bodies(), &decision, "stand-in"};
  runtime::Config config = runtime::parse_config(kTiny, "tiny.yaml", {});
  config.backend.device = runtime::DeviceChoice::kCuda;
  StepMeasurement measured;
  const comm::LocalWorld world(2, 60s);
  world.run(
      [&](Communicator& communicator) {
        const std::atomic<int> stop{0};
        core::Logger log(communicator.rank(), 2, core::LogLevel::kError);
        const StepMeasurement own = measure_steps(
            config, {.warmup = 1, .steps = 2, .synthetic = true}, communicator, device, stop, log);
        if (communicator.rank() == 0) measured = own;
      },
      [&](std::unique_ptr<Communicator> host) {
        return comm::make_staged_communicator(std::move(host), device.device);
      });
  core::cuda::stand_in_settings() = {};
  EXPECT_EQ(measured.communication.why_unknown, "");
  EXPECT_GT(measured.communication[comm::CommKind::kReduce].total(), 0.0);
  EXPECT_GT(measured.communication[comm::CommKind::kGather].total(), 0.0);
  EXPECT_LE(measured.communication.all().exposed, measured.all_seconds);
}

}  // namespace
}  // namespace lockstep::launcher
