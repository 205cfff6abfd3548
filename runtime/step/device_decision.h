#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/memory.h"
#include "models/parameter_table.h"
#include "ops/op_context.h"
#include "ops/plan_table.h"
#include "ops/results.h"
#include "runtime/step/decision_bodies.h"
#include "runtime/step/step_decision.h"
#include "runtime/step/steps_under_way.h"

namespace lockstep::runtime {

// The numeric half of the step decision on a device, from step to step in the order of the
// context's stream: every rank's numbers are gathered in device memory, each rank decides the same
// from them, and the update and the next forward read what was decided there. So nothing on the
// device waits for the host, which replays each decision later from the same numbers
// (StepDecision, decide()) and compares.
class DeviceDecision {
 public:
  // parameter_of: of which parameter each of the shard's sums is (StepMeasurements::shard).
  DeviceDecision(const DecisionRules& rules, const models::ParameterTable& table,
                 const std::vector<models::ParameterId>& parameter_of,
                 comm::Communicator& communicator, ops::OpContext& context,
                 const DecisionBodies& bodies, core::MemoryTracker& memory);

  // What the next step starts from, where the host has decided it: at the start, and after a step
  // that was left out or a rollback.
  void set_state(const DecisionState& state);

  // Decides a step from what its ops have left, once those are done. Collective. first_applied: the
  // number of applied steps for which the update's first rule is meant. mirror: see decided().
  void launch(const StepMeasurements& measured, std::int64_t first_applied, int mirror);

  // In device memory, as the work given to the stream after launch() finds it.
  const DecidedStep* decided_on_device() const { return decided_.at(); }
  const ops::UpdateChoice* choice() const { return &decided_.at()->choice; }
  std::span<const float> factors()
      const;  // by parameter, where the mode clips by tensor; else none
  // Loss scale / D of the next step to be computed.
  const float* gradient_weight() const;

  // What was decided, once the work that launch() gave to the stream is done; valid until the next
  // launch() with the same mirror.
  const DecidedStep& decided(int mirror) const { return decided_.value(0, mirror); }
  // The first tensor whose reference is not the host's (DecisionState::clip_references), in words;
  // empty where all bits agree, or the mode has none.
  std::string reference_difference(const std::vector<double>& host, int mirror) const;

  static std::size_t result_bytes(const DecisionRules& rules, int ranks, std::int64_t parameters);
  static std::size_t table_bytes(const DecisionRules& rules, std::size_t shard_sums);

 private:
  void gather_numbers(const StepMeasurements& measured);
  void clip_parameters(const StepMeasurements& measured);
  void all_gather_in_place(const core::Buffer& buffer, std::size_t bytes_of_rank,
                           const char* label);

  DecisionRules rules_;
  comm::Communicator& communicator_;
  ops::OpContext& context_;
  const DecisionBodies& bodies_;
  std::int64_t parameters_;
  core::Buffer numbers_;  // StepNumbers [ranks]
  core::Buffer state_;    // NumericState, then the gradient's weight
  ops::Results<DecidedStep> decided_;
  // Where the mode clips by tensor only:
  ops::PlanTable<std::int32_t> parameter_of_;
  core::Buffer sums_;                // ExactSum [ranks, parameters]
  core::Buffer factors_;             // fp32 [parameters]
  ops::Results<double> references_;  // [parameters]; adagc only
};

// Where a device's decision differs from the host's replay of it, in words; empty when all bits
// agree. coefficient: as the host applied it. rule: which of the update's rules the host expects.
std::string difference(const DecidedStep& device, const StepDecision& host, double coefficient,
                       std::int32_t rule);

}  // namespace lockstep::runtime
