#pragma once

#include <cstddef>

#include "core/device_runtime.h"

namespace lockstep::core::cuda {

struct Grid {
  unsigned blocks = 0;             // nothing is started when it is 0
  unsigned threads = 0;            // of a block; a multiple of 32, at most 1024
  std::size_t dynamic_shared = 0;  // bytes
};

// Starts the kernel at `kernel` with the arguments at `arguments`. Throws Error as check_device.
void launch_pointer(const char* name, const void* kernel, const Grid& grid,
                    const DeviceStream& stream, void** arguments);

}  // namespace lockstep::core::cuda
