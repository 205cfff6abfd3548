#pragma once

#include <string>
#include <vector>

namespace lockstep::runtime {

// What `lockstep version` tells of GPUs: each a version, or "absent: " and why. Loads the CUDA
// module, which takes a moment.
struct GpuInfo {
  std::string cuda;
  std::string cublaslt;
  std::string cudnn;
  std::string nccl;
  std::vector<std::string> devices;  // one a line, or why there is none
};

GpuInfo gpu_info();

}  // namespace lockstep::runtime
