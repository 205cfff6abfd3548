#include "runtime/trainer/validation.h"

#include <algorithm>

#include "ops/exact_sum.h"

namespace lockstep::runtime {

namespace {

struct ValidationSums {
  ops::ExactSum cross_entropy;
  std::int64_t counted = 0;
};

std::int64_t micro_batches(const Config& config, const TokenDataset& data) {
  const auto held =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(data.sequences()) / config.batch.micro);
  const std::int64_t asked =
      config.train.validate_batches * (config.batch.global / config.batch.micro);
  return asked == 0 ? held : std::min(asked, held);
}

}  // namespace

double validation_loss(const Config& config, const TokenDataset& data, models::Transformer& model,
                       StopPoints& parameters, comm::Communicator& communicator,
                       RunMonitor* monitor) {
  const std::int64_t micro = config.batch.micro;
  std::vector<std::int32_t> inputs(static_cast<std::size_t>(micro * config.model.context));
  std::vector<std::int32_t> targets(inputs.size());
  ValidationSums mine;
  const std::int64_t total = micro_batches(config, data);
  parameters.begin(micro * config.model.context);
  const std::int64_t per_step = config.batch.global / micro;
  for (std::int64_t j = communicator.rank(); j < total; j += communicator.world_size()) {
    // In the last round some ranks may have nothing to compute.
    if (j - communicator.rank() + communicator.world_size() > total) parameters.begin(0);
    data.fill_micro_batch(j / per_step, j % per_step * micro, micro, inputs, targets);
    models::MicroBatch batch;
    batch.sequences = micro;
    batch.length = config.model.context;
    batch.first_sequence = j * micro;
    batch.inputs = inputs;
    batch.targets = targets;
    const ops::LossSums sums = model.evaluate(batch, parameters);
    mine.cross_entropy.add(sums.cross_entropy);
    mine.counted += sums.counted;
    if (monitor != nullptr) monitor->got_on(RunPhase::kValidating);
  }
  ValidationSums all;
  for (const ValidationSums& part : communicator.all_gather_small(mine, "validation")) {
    all.cross_entropy.merge(part.cross_entropy);
    all.counted += part.counted;
  }
  return all.counted == 0 ? 0.0 : all.cross_entropy.value() / static_cast<double>(all.counted);
}

}  // namespace lockstep::runtime
