#pragma once

namespace lockstep::runtime {

// Where one rank's time of one step went, in seconds. For people only: no decision may look at it.
struct StepTiming {
  float data = 0.0F;     // reading sequences
  float compute = 0.0F;  // all the rest: forward, backward, update, copying and summing for peers
  float wait = 0.0F;     // waiting for peers, with nothing else to do

  float busy() const { return data + compute; }
};

}  // namespace lockstep::runtime
