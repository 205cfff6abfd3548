#pragma once

#include <string>

#include "core/tensor.h"
#include "models/parameter_table.h"
#include "models/pass.h"

namespace lockstep::models {

// A LayerNorm or RMSNorm over the width, as the model's `norm` key says.
struct NormLayer {
  ParameterId gain = kNoParameter;
  ParameterId bias = kNoParameter;

  // The norm `name` ("block.3.mlp_norm") of the table.
  static NormLayer find(const ParameterTable& table, const std::string& name);
};

// y = norm(x) by rows; x, y: [N, C]; the statistics are kept in `stats`. y may be x.
void norm_forward(const Pass& pass, const NormLayer& layer, const NormSlots& stats,
                  core::ConstTensorView x, core::TensorView y);

// dx = (gradient through the norm) + add; add may be empty or dx; dx may be dy. dgain, dbias: [C],
// overwritten, or empty where the norm has none or nobody wants it.
void norm_backward(const Pass& pass, const NormLayer& layer, const NormSlots& stats,
                   core::ConstTensorView dy, core::ConstTensorView x, core::ConstTensorView add,
                   core::TensorView dx, core::TensorView dgain, core::TensorView dbias);

}  // namespace lockstep::models
