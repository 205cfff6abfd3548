#include "models/norm_layer.h"

#include "ops/layer_norm.h"
#include "ops/rms_norm.h"

namespace lockstep::models {

NormLayer NormLayer::find(const ParameterTable& table, const std::string& name) {
  return {table.find(name + ".weight"), table.find(name + ".bias")};
}

void norm_forward(const Pass& pass, const NormLayer& layer, const NormSlots& stats,
                  core::ConstTensorView x, core::TensorView y) {
  const core::ConstTensorView gain = pass.parameter(layer.gain);
  const double eps = pass.config.norm_eps;
  if (pass.config.norm == NormKind::kRmsNorm) {
    ops::rms_norm_forward(pass.ops, x, gain, eps, 1, y, pass.stats(stats.rstd));
  } else {
    ops::layer_norm_forward(pass.ops, x, gain, pass.parameter(layer.bias), eps, y,
                            pass.stats(stats.mean), pass.stats(stats.rstd));
  }
}

void norm_backward(const Pass& pass, const NormLayer& layer, const NormSlots& stats,
                   core::ConstTensorView dy, core::ConstTensorView x, core::ConstTensorView add,
                   core::TensorView dx, core::TensorView dgain, core::TensorView dbias) {
  const core::ConstTensorView gain = pass.parameter(layer.gain);
  if (dgain.empty()) dgain = pass.unwanted_gradient(pass.config.width);
  if (layer.bias != kNoParameter && dbias.empty())
    dbias = pass.unwanted_gradient(pass.config.width, 1);
  if (pass.config.norm == NormKind::kRmsNorm) {
    ops::rms_norm_backward(pass.ops, dy, x, gain, pass.stats(stats.rstd), 1, add, dx, dgain);
  } else {
    ops::layer_norm_backward(pass.ops, dy, x, gain, pass.stats(stats.mean), pass.stats(stats.rstd),
                             add, dx, dgain, dbias);
  }
}

}  // namespace lockstep::models
