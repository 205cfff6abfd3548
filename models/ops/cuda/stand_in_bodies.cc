#include "models/ops/cuda/stand_in_bodies.h"

#include "models/ops/cuda/bodies.h"

namespace lockstep::models::ops::cuda {

const OpBodies& stand_in_op_bodies() {
  static const OpBodies bodies = own_kernel_bodies();
  return bodies;
}

}  // namespace lockstep::models::ops::cuda
