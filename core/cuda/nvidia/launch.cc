#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "core/cuda/nvidia/launch.h"
#include "core/error.h"

namespace lockstep::core::cuda {

namespace {

constexpr std::size_t kUsualShared = 48 * 1024;  // more has to be asked for, kernel by kernel

}  // namespace

void launch_pointer(const char* name, const void* kernel, const Grid& grid,
                    const DeviceStream& stream, void** arguments) {
  if (grid.blocks == 0) return;
  const DeviceRuntime& runtime = stream.runtime();
  cudaError_t code = cudaSuccess;
  if (grid.dynamic_shared > kUsualShared) {
    code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(grid.dynamic_shared));
  }
  if (code == cudaSuccess) {
    code = cudaLaunchKernel(kernel, dim3(grid.blocks), dim3(grid.threads), arguments,
                            grid.dynamic_shared, reinterpret_cast<cudaStream_t>(stream.handle()));
  }
  if (code == cudaSuccess) return;
  cudaGetLastError();
  check_device(runtime, static_cast<int>(code),
               fmt::format("starting kernel {} on {} blocks of {} threads with {} bytes of shared "
                           "memory",
                           name, grid.blocks, grid.threads, grid.dynamic_shared));
}

}  // namespace lockstep::core::cuda
