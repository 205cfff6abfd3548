#pragma once

#include "core/cuda/module_interface.h"
#include "core/device_runtime.h"

namespace lockstep::core::cuda {

const DeviceRuntime& nvidia_runtime();

void describe_versions(ModuleVersions* versions);

}  // namespace lockstep::core::cuda
