#pragma once

#include <string>
#include <vector>

#include "runtime/config/config.h"

namespace lockstep::runtime {

// How model.parametrization mup treats the tensors of one kind.
struct MupRow {
  std::string tensors;  // "block.*.attention.qkv.weight"
  double width_multiplier = 1.0;
  double initial_deviation = 0.0;  // of normal values; half the range of uniform ones; 0: constant
  double learning_rate = 0.0;      // peak
  double weight_decay = 0.0;
};

// A row for every tensor but those of blocks after the first, which are like its own. Empty without
// mup.
std::vector<MupRow> mup_rows(const Config& config);

// The rows as a table, and the factors of scores and logits.
std::string mup_table(const Config& config);

}  // namespace lockstep::runtime
