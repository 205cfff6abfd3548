#pragma once

#include <memory>
#include <string>

#include "runtime/config/config.h"
#include "runtime/data/token_dataset.h"

namespace lockstep::runtime {

// The datasets that a config names. Training data is dealt in `data.order`; validation data
// sequentially, from its beginning; without `data.validation` there is none (nullptr). Throws
// Error(kData) as TokenDataset does.
std::unique_ptr<TokenDataset> open_training_data(const Config& config);
std::unique_ptr<TokenDataset> open_validation_data(const Config& config);

// What `key` (data.train, say) names, and in which order it is dealt: "data.train: 3 files, 120
// sequences: a.bin, b2.bin, b10.bin (the order of the list; matches of a pattern in natural order)".
std::string describe_data(const std::string& key, const TokenDataset& data);

// What is legal but hardly meant, in words; empty: nothing.
std::string suspicion(const TokenDataset& data);

}  // namespace lockstep::runtime
