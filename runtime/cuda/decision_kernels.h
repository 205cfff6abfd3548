#pragma once

#include "runtime/step/decision_bodies.h"

namespace lockstep::runtime::cuda {

// The kernels of decision.cu, as they were compiled here: in the CUDA module by nvcc, in tests for
// the stand-in over host memory.
DecisionBodies decision_kernels();

}  // namespace lockstep::runtime::cuda
