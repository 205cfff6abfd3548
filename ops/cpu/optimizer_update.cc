#include <limits>

#include "core/check.h"
#include "ops/cpu/bodies.h"
#include "ops/cpu/tiles.h"
#include "ops/update_rules.h"

namespace lockstep::ops::cpu {

using core::ConstTensorView;
using core::TensorView;

namespace {

struct Arrays {
  const float* gradient;
  float* master;
  float* state0;
  float* state1;
};

// n consecutive elements. Without a state the pointer is null and never followed.
template <typename Rule>
void update_span(const Rule rule, float factor, float bound, Arrays a, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    float p = a.master[i];
    float s0 = 0.0F;
    float s1 = 0.0F;
    if constexpr (Rule::kStates > 0) s0 = a.state0[i];
    if constexpr (Rule::kStates > 1) s1 = a.state1[i];
    rule(clamped(a.gradient[i] * factor, bound), p, s0, s1);
    a.master[i] = p;
    if constexpr (Rule::kStates > 0) a.state0[i] = s0;
    if constexpr (Rule::kStates > 1) a.state1[i] = s1;
  }
}

void cast_span(const float* from, const TensorView& to, std::int64_t begin, std::int64_t n) {
  auto* target = static_cast<std::byte*>(to.raw()) +
                 static_cast<std::size_t>(begin) * core::size_of(to.dtype());
  core::convert(core::DType::kF32, from, to.dtype(), target, static_cast<std::size_t>(n));
}

template <typename Rule>
void update(OpContext& context, const Rule& rule, float factor, float bound,
            const ConstTensorView& gradient, const TensorView& master, const TensorView& state0,
            const TensorView& state1, const TensorView& parameter) {
  const Arrays all{gradient.data<float>(), master.data<float>(),
                   Rule::kStates > 0 ? state0.data<float>() : nullptr,
                   Rule::kStates > 1 ? state1.data<float>() : nullptr};
  // Tile by tile, so that the cast reads the masters from the cache.
  for_each_tile(context, 1, gradient.elements(), true,
                [&](std::int64_t, std::int64_t at, std::int64_t n, std::int64_t) {
                  const Arrays a{all.gradient + at, all.master + at,
                                 Rule::kStates > 0 ? all.state0 + at : nullptr,
                                 Rule::kStates > 1 ? all.state1 + at : nullptr};
                  update_span(rule, factor, bound, a, n);
                  if (!parameter.empty()) cast_span(a.master, parameter, at, n);
                });
}

}  // namespace

void optimizer_update(OpContext& context, const UpdateRule& rule, bool decay, UpdateFactor factor,
                      float clamp, ConstTensorView gradient, TensorView master, TensorView state0,
                      TensorView state1, TensorView parameter) {
  const float bound = clamp > 0.0F ? clamp : std::numeric_limits<float>::infinity();
  visit_rule(rule, decay ? rule.weight_decay : 0.0, [&](const auto& prepared) {
    update(context, prepared, factor.value, bound, gradient, master, state0, state1, parameter);
  });
}

void optimizer_update_runs(OpContext& context, const UpdateRule& rule, const UpdatePlan& plan,
                           const RunFactors& factors, float clamp) {
  for (const UpdateRun& run : plan.runs()) {
    const UpdateFactor factor = factors.by_run.empty()
                                    ? factors.common
                                    : factors.by_run[static_cast<std::size_t>(run.factor)];
    cpu::optimizer_update(context, rule, run.decay, factor, clamp, run.gradient, run.master,
                          run.state0, run.state1, run.parameter);
  }
}

void optimizer_update_chosen(OpContext&, std::span<const UpdateRule>, const UpdatePlan&,
                             const UpdateChoice*, std::span<const float>, float) {
  LOCKSTEP_CHECK(false, "optimizer_update_runs: an update that a device decides on, on the CPU");
}

}  // namespace lockstep::ops::cpu
