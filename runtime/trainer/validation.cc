#include "runtime/trainer/validation.h"

#include <algorithm>

#include "ops/exact_sum.h"

namespace lockstep::runtime {

namespace {

struct ValidationSums {
  ops::ExactSum cross_entropy;
  std::int64_t counted = 0;
};

// Sequences that are computed together. How many there are shows in the last bits of a product, so
// that under `ranks`, where batch.micro may change nothing here, each goes by itself.
std::int64_t sequences_of_pass(const Config& config) {
  return config.run.reproducible == Reproducible::kRanks ? 1 : config.batch.micro;
}

}  // namespace

double mean_loss(const Config& config, const TokenDataset& data, SequenceRange range,
                 models::Transformer& model, StopPoints& parameters,
                 comm::Communicator& communicator, RunMonitor* monitor) {
  const std::int64_t of_pass = sequences_of_pass(config);
  std::vector<std::int32_t> inputs(static_cast<std::size_t>(of_pass * config.model.context));
  std::vector<std::int32_t> targets(inputs.size());
  ValidationSums mine;
  const std::int64_t whole_passes = range.count / of_pass;
  parameters.begin(of_pass * config.model.context);
  for (std::int64_t j = communicator.rank(); j * of_pass < range.count;
       j += communicator.world_size()) {
    // In the last round some ranks may have nothing, or less, to compute.
    if (j - communicator.rank() + communicator.world_size() > whole_passes) parameters.begin(0);
    models::MicroBatch batch;
    batch.sequences = std::min(of_pass, range.count - j * of_pass);
    batch.length = config.model.context;
    batch.first_sequence = j * of_pass;
    const auto tokens = static_cast<std::size_t>(batch.sequences * batch.length);
    data.fill(range.first + j * of_pass, batch.sequences, std::span(inputs).first(tokens),
              std::span(targets).first(tokens));
    batch.inputs = std::span(inputs).first(tokens);
    batch.targets = std::span(targets).first(tokens);
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

SequenceRange validation_range(const Config& config, const TokenDataset& data) {
  const auto held = static_cast<std::int64_t>(data.sequences());
  const std::int64_t asked = config.train.validate_batches * config.batch.global;
  return {0, asked == 0 ? held : std::min(asked, held)};
}

}  // namespace lockstep::runtime
