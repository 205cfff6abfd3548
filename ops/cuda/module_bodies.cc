#include "ops/cuda/module_bodies.h"

#include "ops/cuda/bodies.h"
#include "ops/cuda/cublaslt/matmul.h"
#include "ops/cuda/cudnn/attention.h"
#include "ops/cuda/libraries.h"

namespace lockstep::ops::cuda {

OpBodies module_op_bodies() {
  OpBodies bodies = own_kernel_bodies();
  bodies.matmul = cublaslt_matmul;
  bodies.matmul_activation_forward = cublaslt_matmul_activation_forward;
  bodies.matmul_activation_backward = cublaslt_matmul_activation_backward;
  bodies.matmul_weight_gradient = cublaslt_matmul_weight_gradient;
  bodies.attention_forward = cudnn_attention_forward;
  bodies.attention_backward = cudnn_attention_backward;
  bodies.attention_server = cudnn_attention_server;
  bodies.open_libraries = open_libraries;
  bodies.close_libraries = close_libraries;
  bodies.describe_choices = describe_choices;
  return bodies;
}

}  // namespace lockstep::ops::cuda
