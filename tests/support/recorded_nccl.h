#pragma once

#include "comm/nccl/nccl_api.h"

namespace lockstep::testing {

// The stand-in for NCCL, which tells the recording of the calling thread (trace_recording.h) of
// every collective. The rank's group must have been entered on the plain stand-in's streams
// (comm::testing::NcclStandInState::at_once).
const comm::nccl::Api& recorded_nccl();

}  // namespace lockstep::testing
