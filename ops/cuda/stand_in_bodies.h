#pragma once

#include "ops/op_bodies.h"

namespace lockstep::ops::cuda {

// The same kernels as the CUDA module's, compiled for the stand-in over host memory
// (core/cuda/stand_in/machine.h).
const OpBodies& stand_in_op_bodies();

}  // namespace lockstep::ops::cuda
