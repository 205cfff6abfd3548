#pragma once

#include "runtime/cuda/decision_kernels.h"
#include "runtime/device/backend_device.h"
#include "tests/support/device_harness.h"

// Devices under test for the layer that trains: with the kernels of the step decision.
namespace lockstep::test {

inline const runtime::DecisionBodies& decision_bodies_of(const TestDevice& device) {
  static const runtime::DecisionBodies stand_in = runtime::cuda::decision_kernels();
  return device.stand_in ? stand_in : runtime::cuda_decision_bodies(core::load_cuda_module());
}

inline runtime::BackendDevice backend_of(const TestDevice& device) {
  return {device.ref, device.bodies, &decision_bodies_of(device), device.name};
}

}  // namespace lockstep::test
