#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/cuda/module_interface.h"

namespace lockstep::core {

// The CUDA module as this process has it: loaded late, so that the program starts where there is no
// CUDA, and never unloaded.
struct CudaModule {
  const cuda::ModuleDescription* description = nullptr;  // null: absent
  std::string why_absent;

  // The module's runtime. Throws Error(kConfig) saying why there is none.
  const DeviceRuntime& runtime() const;
};

// Looks for liblockstep_cuda.so in these folders, in order, and takes the first that is there. One
// that cannot be loaded, or comes from another build, is absent too. Never throws.
CudaModule load_cuda_module(const std::vector<std::filesystem::path>& folders);

// The same in ../lib and in the folder of the running program.
CudaModule load_cuda_module();

// The devices of a runtime, one a line ("cuda:0  NVIDIA H200, compute capability 9.0, ..."), or why
// there is none.
std::vector<std::string> describe_devices(const DeviceRuntime& runtime);

}  // namespace lockstep::core
