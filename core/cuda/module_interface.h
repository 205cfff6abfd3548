#pragma once

#include <cstddef>

#include "core/device_runtime.h"

// What liblockstep_cuda.so, the module that holds all CUDA code, offers to the program that loads
// it, as functions found by name.
namespace lockstep::core::cuda {

// Versions of what the module was built with and what it finds at run time, for people.
struct ModuleVersions {
  char cuda[128];      // "13.0, sm_80 sm_90a, driver for CUDA 13.1"
  char cublaslt[128];  // "13.1.0"
  char cudnn[128];     // "9.19.0", or why it is absent
  char nccl[128];      // "2.28.9", or why it is absent
};

// Describes the module to the program; both must come from one build of one source.
struct ModuleDescription {
  char version[32];            // of Lockstep
  std::size_t runtime_bytes;   // sizeof(DeviceRuntime)
  std::size_t bodies_bytes;    // sizeof(ops::OpBodies)
  std::size_t decision_bytes;  // sizeof(runtime::DecisionBodies)
  const DeviceRuntime* runtime;
  const void* op_bodies;        // ops::OpBodies
  const void* decision_bodies;  // runtime::DecisionBodies
  void (*versions)(ModuleVersions* versions);
};

inline constexpr const char* kModuleFile = "liblockstep_cuda.so";
inline constexpr const char* kModuleEntry = "lockstep_cuda_module";  // ModuleDescription (*)()

using ModuleEntry = const ModuleDescription* (*)();

}  // namespace lockstep::core::cuda
