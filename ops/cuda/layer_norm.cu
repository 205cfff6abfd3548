#include "ops/cuda/norm.cuh"

namespace lockstep::ops::cuda {

void layer_norm_forward(OpContext& context, ConstTensorView x, ConstTensorView gain,
                        ConstTensorView bias, double eps, TensorView y, TensorView mean,
                        TensorView rstd) {
  norm_forward<true>(context, "layer_norm_forward", x, gain, bias, eps, 1, y, mean, rstd);
}

void layer_norm_backward(OpContext& context, ConstTensorView dy, ConstTensorView x,
                         ConstTensorView gain, ConstTensorView mean, ConstTensorView rstd,
                         ConstTensorView add, TensorView dx, TensorView dgain, TensorView dbias) {
  norm_backward<true>(context, "layer_norm_backward", dy, x, gain, mean, rstd, 1, add, dx, dgain,
                      dbias);
}

}  // namespace lockstep::ops::cuda
