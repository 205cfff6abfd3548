#include <limits>
#include <type_traits>

#include "ops/cuda/bodies.h"
#include "ops/cuda/op_kernel.cuh"
#include "ops/update_rules.h"

namespace lockstep::ops::cuda {

namespace {

constexpr int kQuad = 4;   // elements that a thread reads together: neighbouring threads,
                           // neighbouring addresses, also with 4 bytes to an element
constexpr int kQuads = 2;  // of a thread, so that enough is under way
constexpr unsigned kThreads = UpdateTile::kElements / (kQuad * kQuads);

template <typename T>
struct alignas(kQuad * sizeof(T)) Quad {
  T v[kQuad];
};

// Where in a run the quads of a thread lie.
struct Place {
  std::int64_t first;  // element of the thread's first quad
  std::int64_t count;  // of the run
  bool whole;          // the whole tile lies within the run, whose views begin on 16 bytes

  __device__ std::int64_t at(int q) const { return first + q * (kThreads * kQuad); }
};

// Zeros behind the end of the run.
__device__ void load_quads(const float* run, const Place& place, float (&out)[kQuads][kQuad]) {
  if (place.whole) {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      const Quad<float> quad = *reinterpret_cast<const Quad<float>*>(run + place.at(q));
#pragma unroll
      for (int i = 0; i < kQuad; ++i)
        out[q][i] = quad.v[i];
    }
    return;
  }
#pragma unroll
  for (int q = 0; q < kQuads; ++q)
#pragma unroll
    for (int i = 0; i < kQuad; ++i)
      out[q][i] = place.at(q) + i < place.count ? run[place.at(q) + i] : 0.0F;
}

template <typename T>
__device__ void store_quads(const float (&in)[kQuads][kQuad], const Place& place, T* run) {
  if (place.whole) {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      Quad<T> quad;
#pragma unroll
      for (int i = 0; i < kQuad; ++i)
        quad.v[i] = from_float<T>(in[q][i]);
      *reinterpret_cast<Quad<T>*>(run + place.at(q)) = quad;
    }
    return;
  }
#pragma unroll
  for (int q = 0; q < kQuads; ++q)
#pragma unroll
    for (int i = 0; i < kQuad; ++i)
      if (place.at(q) + i < place.count) run[place.at(q) + i] = from_float<T>(in[q][i]);
}

// What the blocks work on: the tables of a plan, or, where there are none, one run.
struct Work {
  const UpdateSpan* runs;
  const UpdateTile* tiles;
  UpdateSpan one;
};

// Both forms of a rule, in plain numbers.
template <typename Rule>
struct Forms {
  static_assert(std::is_trivially_copyable_v<Rule>);
  Rule decaying;
  Rule exempt;

  __device__ Rule form(bool decays) const { return decays ? decaying : exempt; }
};

template <typename Rule>
struct Rules {
  Forms<Rule> of[kMostRules];
};

struct Factors {
  const float* memory;  // null: value
  bool by_run;          // memory[run.factor], else memory[0]
  float value;
};

template <typename Rule, typename T>
__device__ void update_tile(const UpdateSpan& run, const Place& place, const Rule& rule,
                            float scale, float bound) {
  float g[kQuads][kQuad];
  float m[kQuads][kQuad];
  float s0[kQuads][kQuad] = {};
  float s1[kQuads][kQuad] = {};
  load_quads(run.gradient, place, g);
  load_quads(run.master, place, m);
  if constexpr (Rule::kStates > 0) load_quads(run.state0, place, s0);
  if constexpr (Rule::kStates > 1) load_quads(run.state1, place, s1);
#pragma unroll
  for (int q = 0; q < kQuads; ++q)
#pragma unroll
    for (int i = 0; i < kQuad; ++i)
      rule(clamped(g[q][i] * scale, bound), m[q][i], s0[q][i], s1[q][i]);
  store_quads(m, place, run.master);
  if constexpr (Rule::kStates > 0) store_quads(s0, place, run.state0);
  if constexpr (Rule::kStates > 1) store_quads(s1, place, run.state1);
  if (run.parameter != nullptr) store_quads(m, place, static_cast<T*>(run.parameter));
}

// chosen: null where the host has decided: the first rule, applied.
template <typename Rule, typename T>
__global__ void update_kernel(Work work, Rules<Rule> rules, const UpdateChoice* chosen,
                              Factors factors, float bound) {
  const bool planned = work.tiles != nullptr;
  const UpdateTile tile =
      planned ? work.tiles[blockIdx.x] : UpdateTile{0, static_cast<std::int32_t>(blockIdx.x)};
  const UpdateChoice choice = chosen == nullptr ? UpdateChoice{1, 0, factors.value} : *chosen;
  if (choice.apply == 0) return;
  const UpdateSpan run = planned ? work.runs[tile.run] : work.one;
  const float scale =
      factors.memory == nullptr ? choice.factor : factors.memory[factors.by_run ? run.factor : 0];
  const std::int64_t begin = tile.tile * UpdateTile::kElements;
  const Place place{begin + static_cast<std::int64_t>(threadIdx.x) * kQuad, run.count,
                    run.aligned && run.count - begin >= UpdateTile::kElements};
  // Not by index, for which the compiler would copy them to each thread's memory.
  static_assert(kMostRules == 2);
  const Rule rule = choice.rule == 0 ? rules.of[0].form(run.decay) : rules.of[1].form(run.decay);
  update_tile<Rule, T>(run, place, rule, scale, bound);
}

template <typename Rule>
Forms<Rule> forms_of(const UpdateRule& rule) {
  return {Rule(rule, rule.weight_decay), Rule(rule, 0.0)};
}

// All updates run the same kernel, so that their bits are the same whatever the compiler makes of
// a*b+c. rules: of one kind.
void update(OpContext& context, std::span<const UpdateRule> rules, DType parameter,
            const Work& work, unsigned blocks, const UpdateChoice* choice, const Factors& factors,
            float clamp) {
  const float bound = clamp > 0.0F ? clamp : std::numeric_limits<float>::infinity();
  visit_compute(parameter, [&](auto type) {
    using T = decltype(type);
    visit_rule(rules.front(), 0.0, [&](const auto& any) {
      using Rule = std::decay_t<decltype(any)>;
      static_assert(kMostRules == 2);
      const Rules<Rule> prepared{{forms_of<Rule>(rules.front()), forms_of<Rule>(rules.back())}};
      launch("optimizer_update", update_kernel<Rule, T>, Grid{blocks, kThreads, 0},
             context.stream(), work, prepared, choice, factors, bound);
    });
  });
}

void check_ranges(const UpdateRun& run) {
  for (const ConstTensorView& view : std::initializer_list<ConstTensorView>{
           run.gradient, run.master, run.state0, run.state1, run.parameter})
    check_device_range(view.raw(), extent(view));
}

void update_runs(OpContext& context, std::span<const UpdateRule> rules, const UpdatePlan& plan,
                 const UpdateChoice* choice, const Factors& factors, float clamp) {
  for (const UpdateRun& run : plan.runs())
    check_ranges(run);
  update(context, rules, plan.parameter(), {plan.spans().data(), plan.tiles().data(), {}},
         block_count(plan.tiles().size()), choice, factors, clamp);
}

}  // namespace

void optimizer_update(OpContext& context, const UpdateRule& rule, bool decay, UpdateFactor factor,
                      float clamp, ConstTensorView gradient, TensorView master, TensorView state0,
                      TensorView state1, TensorView parameter) {
  const UpdateRun run{gradient, master, state0, state1, parameter, decay, 0};
  check_ranges(run);
  update(context, {&rule, 1}, parameter.empty() ? DType::kF32 : parameter.dtype(),
         {nullptr, nullptr, span_of(run)},
         block_count(ceil_div(gradient.elements(), UpdateTile::kElements)), nullptr,
         {factor.on_device, false, factor.value}, clamp);
}

void optimizer_update_runs(OpContext& context, const UpdateRule& rule, const UpdatePlan& plan,
                           const RunFactors& factors, float clamp) {
  const bool by_run = !factors.by_run.empty();
  check_device_range(factors.by_run.data(), factors.by_run.size_bytes());
  update_runs(
      context, {&rule, 1}, plan, nullptr,
      {by_run ? factors.by_run.data() : factors.common.on_device, by_run, factors.common.value},
      clamp);
}

void optimizer_update_chosen(OpContext& context, std::span<const UpdateRule> rules,
                             const UpdatePlan& plan, const UpdateChoice* choice,
                             std::span<const float> by_run, float clamp) {
  check_device_range(choice, sizeof(UpdateChoice));
  check_device_range(by_run.data(), by_run.size_bytes());
  const float* factors = by_run.empty() ? nullptr : by_run.data();
  update_runs(context, rules, plan, choice, {factors, true, 1.0F}, clamp);
}

}  // namespace lockstep::ops::cuda
