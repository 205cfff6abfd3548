#include <limits>

#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/op_kernel.cuh"
#include "models/ops/update_rules.h"

namespace lockstep::models::ops::cuda {

namespace {

// Of the tensors of one update; null where the rule or the caller has none.
template <typename T>
struct Operands {
  Rows<const float> gradient;
  Rows<float> master;
  Rows<float> state0;
  Rows<float> state1;
  Rows<T> parameter;
};

template <typename Rule, typename T>
__global__ void update_kernel(Walk walk, Rule rule, UpdateFactor factor, float bound,
                              Operands<T> o) {
  const Piece p(walk);
  if (p.count <= 0) return;
  const float scale = factor.on_device == nullptr ? factor.value : *factor.on_device;
  float g[kLane];
  float m[kLane];
  float s0[kLane] = {};
  float s1[kLane] = {};
  load(o.gradient.data + p.col, p.count, o.gradient.aligned, g);
  load(o.master.data + p.col, p.count, o.master.aligned, m);
  if constexpr (Rule::kStates > 0) load(o.state0.data + p.col, p.count, o.state0.aligned, s0);
  if constexpr (Rule::kStates > 1) load(o.state1.data + p.col, p.count, o.state1.aligned, s1);
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    rule(clamped(g[i] * scale, bound), m[i], s0[i], s1[i]);
  store(m, p.count, o.master.aligned, o.master.data + p.col);
  if constexpr (Rule::kStates > 0) store(s0, p.count, o.state0.aligned, o.state0.data + p.col);
  if constexpr (Rule::kStates > 1) store(s1, p.count, o.state1.aligned, o.state1.data + p.col);
  if (o.parameter.data != nullptr) store(m, p.count, o.parameter.aligned, o.parameter.data + p.col);
}

}  // namespace

void optimizer_update(OpContext& context, const UpdateRule& rule, bool decay, UpdateFactor factor,
                      float clamp, ConstTensorView gradient, TensorView master, TensorView state0,
                      TensorView state1, TensorView parameter) {
  const float bound = clamp > 0.0F ? clamp : std::numeric_limits<float>::infinity();
  const Walk walk(1, gradient.elements(), true);
  const DType dtype = parameter.empty() ? DType::kF32 : parameter.dtype();
  visit_compute(dtype, [&](auto type) {
    using T = decltype(type);
    visit_rule(rule, decay ? rule.weight_decay : 0.0, [&](const auto& prepared) {
      using Rule = std::decay_t<decltype(prepared)>;
      const Operands<T> operands{flat_of<const float>(gradient), flat_of<float>(master),
                                 flat_of<float>(state0), flat_of<float>(state1),
                                 flat_of<T>(parameter)};
      launch("optimizer_update", update_kernel<Rule, T>, walk.grid(), context.stream(), walk,
             prepared, factor, bound, operands);
    });
  });
}

}  // namespace lockstep::models::ops::cuda
