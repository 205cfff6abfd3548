#pragma once

namespace lockstep::core::cuda {

// 0 when the module holds code that the calling thread's device runs; a CUDA error code otherwise.
int find_kernel_image();

}  // namespace lockstep::core::cuda
