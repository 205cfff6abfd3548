// The conformance suite on a real GPU, over mpi and over NCCL. Ranks share the GPU where there are
// fewer GPUs than ranks: NCCL refuses that, unless it takes each rank for a host of its own
// (NCCL_HOSTID), which then talk over sockets. Without a GPU, or without NCCL, the tests are
// skipped.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "comm/device/staged_communicator.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/nccl/nccl_communicator.h"
#include "comm/nccl/nccl_library.h"
#include "core/cuda_module.h"
#include "tests/comm/conformance.h"

namespace lockstep::comm::testing {
namespace {

using std::chrono_literals::operator""s;

std::string why_no_gpu() {
  const core::CudaModule module = core::load_cuda_module();
  if (module.description == nullptr) return module.why_absent;
  return core::why_no_device(module.runtime());
}

std::string why_no_nccl(NcclBuffers buffers = NcclBuffers::kPlain) {
  if (std::string why = why_no_gpu(); !why.empty()) return why;
  if (load_nccl().api == nullptr) return load_nccl().why_absent;
  return nccl_lacks(*load_nccl().api, buffers);
}

int gpus() {
  int count = 0;
  core::load_cuda_module().runtime().count(&count);
  return count;
}

core::DeviceRef gpu_of(int rank) {
  return core::open_device(core::load_cuda_module().runtime(), rank % gpus());
}

// Before NCCL reads its environment. What the caller set stands.
void let_ranks_share_a_gpu(int rank) {
  setenv("NCCL_HOSTID", ("r" + std::to_string(rank)).c_str(), 0);
  setenv("NCCL_NET", "Socket", 0);
  setenv("NCCL_SOCKET_IFNAME", "lo", 0);
  setenv("NCCL_IB_DISABLE", "1", 0);
  setenv("NCCL_MNNVL_ENABLE", "0", 0);
  setenv("NCCL_RAS_ENABLE", "0", 0);
  setenv("NCCL_BUFFSIZE", "1048576", 0);
}

// Makes a communicator for each case; says how long each took, as time on a GPU is dear.
void run_cases(const std::vector<ConformanceCase>& cases, bool exact, std::uint64_t entered,
               const std::function<std::unique_ptr<Communicator>()>& make, bool alike = false) {
  for (const ConformanceCase& c : cases) {
    SCOPED_TRACE(c.name);
    const auto begin = std::chrono::steady_clock::now();
    const auto comm = make();
    const auto made = std::chrono::steady_clock::now();
    const core::DeviceRef device = gpu_of(comm->rank());
    const core::DeviceStream stream(device);
    comm->work_on(stream);
    c.check({.comm = *comm,
             .device = device,
             .stream = &stream,
             .exact = exact,
             .alike = alike,
             .entered = entered});
    stream.synchronize();
    if (comm->rank() == 0) {
      const std::chrono::duration<double> connecting = made - begin;
      const std::chrono::duration<double> all = std::chrono::steady_clock::now() - begin;
      std::printf("  %-24s %.2f s, %.2f s of it to connect\n", c.name.c_str(), all.count(),
                  connecting.count());
      std::fflush(stdout);
    }
    if (::testing::Test::HasFatalFailure()) return;
  }
}

std::unique_ptr<Communicator> over_mpi(std::chrono::milliseconds timeout) {
  auto host = make_mpi_communicator({.timeout = timeout});
  const core::DeviceRef device = gpu_of(host->rank());
  return make_staged_communicator(std::move(host), device);
}

std::unique_ptr<Communicator> over_nccl(std::chrono::milliseconds timeout,
                                        NcclBuffers buffers = NcclBuffers::kPlain) {
  auto host = make_mpi_communicator({.timeout = timeout});
  const core::DeviceRef device = gpu_of(host->rank());
  NcclOptions options;
  options.buffers = buffers;
  if (host->world_size() > gpus()) {
    let_ranks_share_a_gpu(host->rank());
    options.max_ctas = 2;  // kernels of all ranks must fit at once
  }
  return make_nccl_communicator(std::move(host), device, *load_nccl().api, options);
}

TEST(Gpu, ConformsOverMpi) {
  if (const std::string why = why_no_gpu(); !why.empty()) GTEST_SKIP() << why;
  run_cases(conformance_cases(), true, 0, [] { return over_mpi(60s); });
}

TEST(Gpu, ConformsOverNccl) {
  if (const std::string why = why_no_nccl(); !why.empty()) GTEST_SKIP() << why;
  std::printf("  NCCL %s, %s\n", nccl_version_text(load_nccl().version).c_str(),
              load_nccl().path.c_str());
  run_cases(conformance_cases(), false, kNcclEntered, [] { return over_nccl(60s); });
}

TEST(Gpu, ConformsOverNcclWithRegisteredBuffers) {
  if (const std::string why = why_no_nccl(NcclBuffers::kRegistered); !why.empty()) {
    GTEST_SKIP() << why;
  }
  run_cases(
      conformance_cases(), false, kNcclEntered,
      [] { return over_nccl(60s, NcclBuffers::kRegistered); }, true);
}

TEST(Gpu, ConformsOverNcclWithSymmetricBuffers) {
  if (const std::string why = why_no_nccl(NcclBuffers::kSymmetric); !why.empty()) {
    GTEST_SKIP() << why;
  }
  if (make_mpi_communicator({.timeout = 60s})->world_size() > gpus()) {
    GTEST_SKIP() << "ranks that share a GPU as if they were hosts have no windows in each other's "
                    "memory";
  }
  run_cases(
      conformance_cases(), false, kNcclEntered,
      [] { return over_nccl(60s, NcclBuffers::kSymmetric); }, true);
}

TEST(Gpu, MisuseOverNcclNamesTheRank) {
  if (const std::string why = why_no_nccl(); !why.empty()) GTEST_SKIP() << why;
  if (make_mpi_communicator({.timeout = 60s})->world_size() == 1) {
    GTEST_SKIP() << "one rank has nobody to disagree with";
  }
  run_cases(misuse_cases(), false, kNcclEntered, [] { return over_nccl(5s); });
}

}  // namespace
}  // namespace lockstep::comm::testing
