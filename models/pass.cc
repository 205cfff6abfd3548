#include "models/pass.h"

#include "core/random.h"
#include "ops/residual.h"

namespace lockstep::models {

ops::Dropout Pass::dropout(const std::string& site, std::int64_t sequence_rows) const {
  if (!training || config.dropout == 0.0) return {};
  ops::Dropout dropout;
  dropout.probability = config.dropout;
  dropout.key = core::stream_key(seed, "dropout/" + site, static_cast<std::uint64_t>(batch.step));
  dropout.first_sequence = batch.first_sequence;
  dropout.sequence_rows = sequence_rows;
  return dropout;
}

void add_in_place(ops::OpContext& ops, core::TensorView to, core::ConstTensorView from) {
  ops::residual_forward(ops, to, from, {}, {}, to);
}

}  // namespace lockstep::models
