#pragma once

#include <memory>

#include "runtime/config/config.h"
#include "runtime/data/token_dataset.h"

namespace lockstep::runtime {

// The datasets that a config names. Training data is dealt in `data.order`; validation data
// sequentially, from its beginning; without `data.validation` there is none (nullptr). Throws
// Error(kData) as TokenDataset does.
std::unique_ptr<TokenDataset> open_training_data(const Config& config);
std::unique_ptr<TokenDataset> open_validation_data(const Config& config);

}  // namespace lockstep::runtime
