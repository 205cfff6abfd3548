#include "runtime/data/open_dataset.h"

namespace lockstep::runtime {

namespace {

DealingOptions dealing(const Config& config, DataOrder order) {
  DealingOptions options;
  options.order = order;
  options.seed = config.run.seed;
  options.context = config.model.context;
  options.global_batch = config.batch.global;
  options.vocab = config.model.vocab;
  return options;
}

}  // namespace

std::unique_ptr<TokenDataset> open_training_data(const Config& config) {
  return std::make_unique<TokenDataset>(
      open_token_files(config.data.train, config.data.token_type, DataSplit::kTrain),
      dealing(config, config.data.order));
}

std::unique_ptr<TokenDataset> open_validation_data(const Config& config) {
  if (config.data.validation.empty()) return nullptr;
  return std::make_unique<TokenDataset>(
      open_token_files(config.data.validation, config.data.token_type, DataSplit::kValidation),
      dealing(config, DataOrder::kSequential));
}

}  // namespace lockstep::runtime
