#pragma once

#include "models/ops/op_bodies.h"

namespace lockstep::models::ops::cuda {

// The bodies of the CUDA module: our own kernels, and NVIDIA's libraries where those serve.
OpBodies module_op_bodies();

}  // namespace lockstep::models::ops::cuda
