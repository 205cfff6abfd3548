#pragma once

#include <functional>
#include <vector>

#include "core/tensor.h"
#include "models/model_io.h"

// How backward hands gradients over: bucket by bucket, the reverse of the sink's canonical order.
namespace lockstep::models {

// The one open bucket of a block: from construction until finish(), gradient(id) is where the
// gradient of that parameter is to be written, in the parameter's own shape.
class BlockGradients {
 public:
  BlockGradients(GradientSink& sink, const ParameterTable& table, GroupIndex group);

  core::TensorView gradient(ParameterId id);  // empty for kNoParameter and for frozen parameters
  void finish();

 private:
  const std::vector<ParameterPiece>& pieces() const;

  GradientSink& sink_;
  const ParameterTable& table_;
  int bucket_ = -1;
};

// Embeddings and head may be split in several buckets, cut anywhere between rows. Opens the
// buckets of `group` in backward order and calls write(piece, out) for every piece; out is
// [row_end - row_begin, cols], for 1-D parameters [n].
using WritePiece = std::function<void(const ParameterPiece& piece, core::TensorView out)>;
void write_group(GradientSink& sink, const ParameterTable& table, GroupIndex group,
                 const WritePiece& write);

}  // namespace lockstep::models
