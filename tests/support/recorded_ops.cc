#include "tests/support/recorded_ops.h"

#include <algorithm>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "ops/cuda/stand_in_bodies.h"
#include "tests/support/device_memory.h"
#include "tests/support/trace_recording.h"

namespace lockstep::testing {

namespace {

using core::ConstTensorView;
using core::TensorView;
using ops::OpBodies;
using ops::OpContext;

using Touches = std::vector<Access>;

void add_bytes(Touches& touches, const void* memory, std::size_t bytes, bool writes) {
  if (memory == nullptr || bytes == 0) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  touches.push_back({begin, begin + bytes, writes});
}

// From the first element of a view to its last.
void add_view(Touches& touches, const ConstTensorView& view, bool writes) {
  if (view.empty() || view.elements() == 0) return;
  const std::int64_t elements = (view.rows() - 1) * view.row_stride() + view.cols();
  add_bytes(touches, view.raw(), static_cast<std::size_t>(elements) * core::size_of(view.dtype()),
            writes);
}

// ---- What an argument touches, by its type --------------------------------------------------

void add(Touches& touches, const ConstTensorView& view) {
  add_view(touches, view, false);
}
void add(Touches& touches, const TensorView& view) {
  add_view(touches, view, true);
}
void add(Touches& touches, const ops::UpdateFactor& factor) {
  add_bytes(touches, factor.on_device, sizeof(float), false);
}
void add(Touches& touches, const ops::RunFactors& factors) {
  add(touches, factors.common);
  add_bytes(touches, factors.by_run.data(), factors.by_run.size_bytes(), false);
}
void add(Touches& touches, const ops::LossOptions& loss) {
  add_bytes(touches, loss.weight_on_device, sizeof(float), false);
}
// Lists of the host's: what is in them counts, if it is tensors.
void add(Touches& touches, const std::span<const ConstTensorView>& views) {
  for (const ConstTensorView& view : views)
    add(touches, view);
}
void add(Touches&, const std::span<const ops::UpdateRule>&) {}
void add(Touches& touches, const ops::UpdatePlan& plan) {
  for (const ops::UpdateRun& run : plan.runs()) {
    add(touches, run.gradient);
    for (const TensorView& view : {run.master, run.state0, run.state1, run.parameter})
      add(touches, view);
  }
}
template <typename T>
void add(Touches& touches, std::span<T> values) {
  add_bytes(touches, values.data(), values.size_bytes(), !std::is_const_v<T>);
}
template <typename T>
void add(Touches& touches, T* value) {
  add_bytes(touches, value, sizeof(T), !std::is_const_v<T>);
}
// Numbers and specifications.
template <typename T>
requires(!std::is_base_of_v<ConstTensorView, T>) void add(Touches&, const T&) {}

template <typename... A>
Touches touched_by(const A&... arguments) {
  Touches touches;
  (add(touches, arguments), ...);
  return touches;
}

// Of arrays whose length another argument tells.
template <typename T>
Touches touched_by(const ConstTensorView& x, const std::span<const ops::Range>& ranges,
                   T* const& results) {
  Touches touches;
  add(touches, x);
  add(touches, std::span(results, ranges.size()));
  return touches;
}

// Only what is hashed of the base.
Touches touched_by(const ops::HashPlan& plan, const ConstTensorView& base,
                   std::uint64_t* const& hashes) {
  Touches touches;
  for (std::int64_t i = 0; i < plan.segments().size(); ++i) {
    const ops::HashSegment& segment = plan.segments().data()[i];  // which lies on the host
    add_bytes(touches, static_cast<const std::byte*>(base.raw()) + segment.offset,
              static_cast<std::size_t>(segment.end - segment.begin), false);
  }
  add(touches, std::span(hashes, static_cast<std::size_t>(plan.messages().size())));
  return touches;
}

// ---- The table ------------------------------------------------------------------------------

const OpBodies& plain() {
  return ops::cuda::stand_in_op_bodies();
}

// kOp: a member of OpBodies.
template <auto kOp>
struct Recorded;

template <typename R, typename... A, R (*OpBodies::*kOp)(OpContext&, A...)>
struct Recorded<kOp> {
  static inline const char* name = "";

  static R call(OpContext& context, A... arguments) {
    Touches touches = touched_by(std::as_const(arguments)...);
    touches.push_back(rest_of_allocation(context.scratch(0), true));  // which any op may use
    const OpScope scope(name, std::move(touches));
    return (plain().*kOp)(context, arguments...);
  }
};

template <auto kOp>
void record(OpBodies& bodies, const char* name) {
  Recorded<kOp>::name = name;
  bodies.*kOp = &Recorded<kOp>::call;
}

}  // namespace

#define LOCKSTEP_RECORD(op) record<&OpBodies::op>(bodies, #op)

const OpBodies& recorded_op_bodies() {
  static const OpBodies recorded = [] {
    OpBodies bodies = plain();
    LOCKSTEP_RECORD(accumulate);
    LOCKSTEP_RECORD(activation_forward);
    LOCKSTEP_RECORD(activation_backward);
    LOCKSTEP_RECORD(gated_activation_forward);
    LOCKSTEP_RECORD(gated_activation_backward);
    LOCKSTEP_RECORD(attention_forward);
    LOCKSTEP_RECORD(attention_backward);
    LOCKSTEP_RECORD(cast);
    LOCKSTEP_RECORD(cross_entropy);
    LOCKSTEP_RECORD(softcap_logits);
    LOCKSTEP_RECORD(dropout);
    LOCKSTEP_RECORD(first_nonfinite);
    LOCKSTEP_RECORD(embedding_forward);
    LOCKSTEP_RECORD(embedding_backward);
    LOCKSTEP_RECORD(position_backward);
    LOCKSTEP_RECORD(count_nonfinite);
    LOCKSTEP_RECORD(count_nonfinite_ranges);
    LOCKSTEP_RECORD(sums_of_squares);
    LOCKSTEP_RECORD(hash_messages);
    LOCKSTEP_RECORD(layer_norm_forward);
    LOCKSTEP_RECORD(layer_norm_backward);
    LOCKSTEP_RECORD(matmul);
    LOCKSTEP_RECORD(matmul_activation_forward);
    LOCKSTEP_RECORD(matmul_activation_backward);
    LOCKSTEP_RECORD(matmul_weight_gradient);
    LOCKSTEP_RECORD(muon_momentum);
    LOCKSTEP_RECORD(divide_by_norm);
    LOCKSTEP_RECORD(weighted_sum);
    LOCKSTEP_RECORD(optimizer_update);
    LOCKSTEP_RECORD(optimizer_update_runs);
    LOCKSTEP_RECORD(optimizer_update_chosen);
    LOCKSTEP_RECORD(column_sum);
    LOCKSTEP_RECORD(residual_forward);
    LOCKSTEP_RECORD(residual_backward);
    LOCKSTEP_RECORD(rms_norm_forward);
    LOCKSTEP_RECORD(rms_norm_backward);
    LOCKSTEP_RECORD(fill_rope_table);
    LOCKSTEP_RECORD(rope);
    LOCKSTEP_RECORD(scale);
    return bodies;
  }();
  return recorded;
}

}  // namespace lockstep::testing
