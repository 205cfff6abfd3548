#pragma once

#include "ops/op_bodies.h"

namespace lockstep::testing {

// The stand-in's bodies of all ops. What an op is given to read and to write, by the types of its
// arguments, is told to the recording of the calling thread (trace_recording.h) with each of its
// kernels.
const ops::OpBodies& recorded_op_bodies();

}  // namespace lockstep::testing
