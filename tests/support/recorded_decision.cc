#include "tests/support/recorded_decision.h"

#include <utility>
#include <vector>

#include "runtime/cuda/decision_kernels.h"
#include "tests/support/trace_recording.h"

namespace lockstep::testing {

namespace {

using ops::OpContext;

template <typename T>
Access access(const T* values, std::int64_t count, bool writes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(values);
  return {begin, begin + static_cast<std::uintptr_t>(count) * sizeof(T), writes};
}
template <typename T>
Access reads(const T* values, std::int64_t count = 1) {
  return access(values, count, false);
}
template <typename T>
Access writes(const T* values, std::int64_t count = 1) {
  return access(values, count, true);
}

const runtime::DecisionBodies& plain() {
  static const runtime::DecisionBodies bodies = runtime::cuda::decision_kernels();
  return bodies;
}

void add_up_step(OpContext& context, const runtime::StepMeasurements& measured,
                 runtime::StepNumbers* numbers) {
  const OpScope scope("add_up_step", {reads(measured.shard, measured.shard_sums),
                                      reads(measured.losses, measured.rounds),
                                      reads(measured.own, measured.own_counts), writes(numbers)});
  plain().add_up_step(context, measured, numbers);
}

void decide(OpContext& context, const runtime::DecisionRules& rules,
            const runtime::StepNumbers* numbers, int ranks, std::int64_t first_applied,
            const runtime::DecisionMemory& memory) {
  const OpScope scope("decide", {reads(numbers, ranks), writes(memory.state),
                                 writes(memory.decided), writes(memory.gradient_weight)});
  plain().decide(context, rules, numbers, ranks, first_applied, memory);
}

void add_up_parameters(OpContext& context, const ops::SumOfSquares* shard,
                       const std::int32_t* parameter_of, std::int64_t shard_sums,
                       std::int64_t parameters, ops::ExactSum* sums) {
  const OpScope scope(
      "add_up_parameters",
      {reads(shard, shard_sums), reads(parameter_of, shard_sums), writes(sums, parameters)});
  plain().add_up_parameters(context, shard, parameter_of, shard_sums, parameters, sums);
}

void clip_parameters(OpContext& context, const runtime::ClipConfig& rules,
                     const ops::ExactSum* sums, int ranks, std::int64_t parameters,
                     runtime::DecidedStep* decided, double* references, float* factors) {
  const std::int64_t kept = references == nullptr ? 0 : parameters;
  const OpScope scope("clip_parameters", {reads(sums, ranks * parameters), writes(decided),
                                          writes(references, kept), writes(factors, parameters)});
  plain().clip_parameters(context, rules, sums, ranks, parameters, decided, references, factors);
}

// What it writes lies on the host.
void keep_unless_applied(OpContext& context, const runtime::DecidedStep* decided,
                         const void* memory, void* pinned, std::size_t bytes) {
  const OpScope scope("keep_unless_applied",
                      {reads(decided), reads(static_cast<const std::byte*>(memory),
                                             static_cast<std::int64_t>(bytes))});
  plain().keep_unless_applied(context, decided, memory, pinned, bytes);
}

}  // namespace

const runtime::DecisionBodies& recorded_decision_bodies() {
  static const runtime::DecisionBodies bodies = {add_up_step, decide, add_up_parameters,
                                                 clip_parameters, keep_unless_applied};
  return bodies;
}

}  // namespace lockstep::testing
