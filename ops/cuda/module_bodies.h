#pragma once

#include "ops/op_bodies.h"

namespace lockstep::ops::cuda {

// The bodies of the CUDA module: our own kernels, and NVIDIA's libraries where those serve.
OpBodies module_op_bodies();

}  // namespace lockstep::ops::cuda
