#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "models/parameter_table.h"
#include "ops/loss.h"

// What a model needs from whoever runs it. The model knows nothing of ranks, shards or the wire: it
// reads parameters through ParameterSource and hands gradients to a GradientSink, bucket by bucket.
namespace lockstep::models {

// The gradient of a head's weight, which may be split, is computed kSplitRows rows at a time, from
// row 0 on, so that its bits do not depend on where buckets are cut, as long as every cut is a
// multiple of it.
inline constexpr std::int64_t kSplitRows = 1024;

// Rows [row_begin, row_end) of a parameter: all of them but for split embeddings and heads. A 1-D
// tensor is one row of its whole length: row_begin = 0, row_end = 1.
struct ParameterPiece {
  ParameterId parameter = kNoParameter;
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
};

// A bucket: the unit of gradient reduction. All its pieces belong to one group; frozen tensors are
// in none, so that a bucket may have no piece.
struct BucketSpec {
  std::string name;  // "embeddings", "block.7", "head", or "head.2" when the group is split
  GroupIndex group = 0;
  std::vector<ParameterPiece> pieces;
};

// Gives parameters in the compute type. parameter(id) may block until the parameter is whole (an
// all-gather in flight).
class ParameterSource {
 public:
  virtual ~ParameterSource() = default;
  virtual core::ConstTensorView parameter(ParameterId id) = 0;  // the whole tensor, contiguous
};

// Takes gradients in the compute type. Backward visits buckets in backward order (the reverse of
// buckets()), each that has pieces exactly once a micro-batch:  begin(b); write every piece into gradient(b, i)
// completely (overwrite, never add); finish(b). After finish the memory belongs to the sink.
// Padding is the sink's business.
class GradientSink {
 public:
  virtual ~GradientSink() = default;
  virtual const std::vector<BucketSpec>& buckets() const = 0;  // canonical order
  virtual void begin(int bucket) = 0;
  virtual core::TensorView gradient(int bucket, int piece) = 0;  // [row_end - row_begin, cols]
  virtual void finish(int bucket) = 0;
};

// One micro-batch: B sequences of T tokens.
struct MicroBatch {
  std::int64_t sequences = 0;            // B
  std::int64_t length = 0;               // T, at most the model's context
  std::span<const std::int32_t> inputs;  // [B*T] token ids
  std::span<const std::int32_t>
      targets;                      // [B*T] token ids or ops::kIgnored; classification: [B] class
                                    // ids; empty when only logits are wanted
  std::int64_t step = 0;            // attempt, 0-based: part of the key of dropout
  std::int64_t first_sequence = 0;  // global index in [0, batch.global) of sequence 0: likewise
  int poison_block = -1;  // fault injection: NaN into this block's forward output (-1: none)
};
}  // namespace lockstep::models
