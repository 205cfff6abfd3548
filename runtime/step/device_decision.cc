#include "runtime/step/device_decision.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>

namespace lockstep::runtime {

namespace {

using ops::ExactSum;
using ops::kResultsRegion;

bool by_tensor(const DecisionRules& rules) {
  return clips_by_tensor(rules.clip.mode);
}

std::int64_t references_of(const DecisionRules& rules, std::int64_t parameters) {
  return rules.clip.mode == ClipMode::kAdaGc ? parameters : 0;
}

std::size_t size(std::int64_t count) {
  return static_cast<std::size_t>(count);
}

constexpr std::size_t kStateBytes = sizeof(NumericState) + sizeof(float);

bool same(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

}  // namespace

DeviceDecision::DeviceDecision(const DecisionRules& rules, const models::ParameterTable& table,
                               const std::vector<models::ParameterId>& parameter_of,
                               comm::Communicator& communicator, ops::OpContext& context,
                               const DecisionBodies& bodies, core::MemoryTracker& memory)
    : rules_(rules),
      communicator_(communicator),
      context_(context),
      bodies_(bodies),
      parameters_(table.size()),
      numbers_(memory, kResultsRegion, size(communicator.world_size()) * sizeof(StepNumbers),
               context.device_ref()),
      state_(memory, kResultsRegion, kStateBytes, context.device_ref()),
      decided_(context, 1, memory, kStepsUnderWay),
      references_(context, size(references_of(rules, table.size())), memory, kStepsUnderWay) {
  if (!by_tensor(rules)) return;
  const std::size_t sums = size(communicator.world_size()) * size(parameters_);
  parameter_of_ = {context, memory, {parameter_of.begin(), parameter_of.end()}};
  sums_ = core::Buffer(memory, kResultsRegion, sums * sizeof(ExactSum), context.device_ref());
  factors_ =
      core::Buffer(memory, kResultsRegion, size(parameters_) * sizeof(float), context.device_ref());
}

std::size_t DeviceDecision::result_bytes(const DecisionRules& rules, int ranks,
                                         std::int64_t parameters) {
  const std::size_t always = size(ranks) * sizeof(StepNumbers) + kStateBytes + sizeof(DecidedStep);
  if (!by_tensor(rules)) return always;
  return always + size(parameters) * (size(ranks) * sizeof(ExactSum) + sizeof(float)) +
         size(references_of(rules, parameters)) * sizeof(double);
}

std::size_t DeviceDecision::table_bytes(const DecisionRules& rules, std::size_t shard_sums) {
  return by_tensor(rules) ? shard_sums * sizeof(std::int32_t) : 0;
}

void DeviceDecision::set_state(const DecisionState& state) {
  const auto& numbers = static_cast<const NumericState&>(state);
  const auto weight = static_cast<float>(state.loss_scale.scale / rules_.loss_divisor);
  context_.upload(state_.data(), &numbers, sizeof(NumericState));
  context_.upload(static_cast<std::byte*>(state_.data()) + sizeof(NumericState), &weight,
                  sizeof(weight));
  if (references_.size() == 0) return;
  std::vector<double> references = state.clip_references;
  references.resize(references_.size());
  context_.upload(references_.at(), references.data(), references.size() * sizeof(double));
}

std::string DeviceDecision::reference_difference(const std::vector<double>& host,
                                                 int mirror) const {
  for (std::size_t p = 0; p < references_.size(); ++p) {
    const double here = references_.value(p, mirror);
    const double there = p < host.size() ? host[p] : 0.0;
    if (!same(here, there))
      return fmt::format("reference norm of tensor {}: {} on the device, {} on the host", p, here,
                         there);
  }
  return {};
}

const float* DeviceDecision::gradient_weight() const {
  return reinterpret_cast<const float*>(static_cast<const std::byte*>(state_.data()) +
                                        sizeof(NumericState));
}

std::span<const float> DeviceDecision::factors() const {
  if (factors_.empty()) return {};
  return {static_cast<const float*>(factors_.data()), size(parameters_)};
}

// Every rank's part lies in its place, and the gathered whole is what the next kernel reads.
void DeviceDecision::all_gather_in_place(const core::Buffer& buffer, std::size_t bytes_of_rank,
                                         const char* label) {
  const auto bytes = static_cast<std::int64_t>(bytes_of_rank);
  const core::TensorView whole =
      buffer.view(core::DType::kU8, core::Shape{bytes * communicator_.world_size()});
  const std::size_t begin = size(communicator_.rank()) * bytes_of_rank;
  const core::TensorView own = buffer.view(core::DType::kU8, core::Shape{bytes}, begin);
  communicator_.all_gather(own, whole, label).wait();
}

void DeviceDecision::launch(const StepMeasurements& measured, std::int64_t first_applied,
                            int mirror) {
  auto* numbers = static_cast<StepNumbers*>(numbers_.data());
  bodies_.add_up_step(context_, measured, numbers + communicator_.rank());
  all_gather_in_place(numbers_, sizeof(StepNumbers), "step_numbers");
  const DecisionMemory memory{static_cast<NumericState*>(state_.data()), decided_.at(),
                              const_cast<float*>(gradient_weight())};
  bodies_.decide(context_, rules_, numbers, communicator_.world_size(), first_applied, memory);
  if (by_tensor(rules_)) clip_parameters(measured);
  decided_.fetch(mirror);
  references_.fetch(mirror);
}

void DeviceDecision::clip_parameters(const StepMeasurements& measured) {
  auto* sums = static_cast<ExactSum*>(sums_.data());
  bodies_.add_up_parameters(context_, measured.shard, parameter_of_.data(), parameter_of_.size(),
                            parameters_, sums + communicator_.rank() * parameters_);
  all_gather_in_place(sums_, size(parameters_) * sizeof(ExactSum), "tensor_sums");
  double* references = references_.size() == 0 ? nullptr : references_.at();
  bodies_.clip_parameters(context_, rules_.clip, sums, communicator_.world_size(), parameters_,
                          decided_.at(), references, static_cast<float*>(factors_.data()));
}

std::string difference(const DecidedStep& device, const StepDecision& host, double coefficient,
                       std::int32_t rule) {
  const NumericDecision& found = device.numbers;
  const auto differ = [](const char* field, auto here, auto there) {
    return fmt::format("{}: {} on the device, {} on the host", field, here, there);
  };
  if (found.outcome != host.outcome) {
    return differ("outcome", static_cast<int>(found.outcome), static_cast<int>(host.outcome));
  }
  if (found.counted != host.counted) return differ("tokens", found.counted, host.counted);
  if (!same(found.loss, host.loss)) return differ("loss", found.loss, host.loss);
  if (!same(found.grad_norm, host.grad_norm))
    return differ("grad_norm", found.grad_norm, host.grad_norm);
  if (!same(found.unscale, host.unscale)) return differ("unscale", found.unscale, host.unscale);
  if (host.applied() && !same(found.coefficient, coefficient))
    return differ("clip_coefficient", found.coefficient, coefficient);
  if (found.next.clip != host.next.clip) {
    return differ("mean norm of clip.mode zclip", found.next.clip.mean, host.next.clip.mean);
  }
  if (found.next != static_cast<const NumericState&>(host.next)) {
    return differ("state of the next step: loss scale", found.next.loss_scale.scale,
                  host.next.loss_scale.scale);
  }
  if ((device.choice.apply != 0) != host.applied())
    return differ("whether it is applied", device.choice.apply, host.applied() ? 1 : 0);
  if (device.choice.rule != rule) return differ("rule of the update", device.choice.rule, rule);
  const auto factor = static_cast<float>(host.unscale * host.coefficient);
  if (host.applied() &&
      std::bit_cast<std::uint32_t>(device.choice.factor) != std::bit_cast<std::uint32_t>(factor))
    return differ("factor of the gradient", device.choice.factor, factor);
  return {};
}

}  // namespace lockstep::runtime
