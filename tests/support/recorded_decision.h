#pragma once

#include "runtime/step/decision_bodies.h"

namespace lockstep::testing {

// The kernels of the step decision on the stand-in; what they read and write is told to the
// recording of the calling thread, as for ops (recorded_ops.h).
const runtime::DecisionBodies& recorded_decision_bodies();

}  // namespace lockstep::testing
