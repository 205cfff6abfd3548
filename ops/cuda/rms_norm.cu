#include "ops/cuda/norm.cuh"

namespace lockstep::ops::cuda {

void rms_norm_forward(OpContext& context, ConstTensorView x, ConstTensorView gain, double eps,
                      std::int64_t heads, TensorView y, TensorView rstd) {
  norm_forward<false>(context, "rms_norm_forward", x, gain, {}, eps, heads, y, {}, rstd);
}

void rms_norm_backward(OpContext& context, ConstTensorView dy, ConstTensorView x,
                       ConstTensorView gain, ConstTensorView rstd, std::int64_t heads,
                       ConstTensorView add, TensorView dx, TensorView dgain) {
  norm_backward<false>(context, "rms_norm_backward", dy, x, gain, {}, rstd, heads, add, dx, dgain,
                       {});
}

}  // namespace lockstep::ops::cuda
