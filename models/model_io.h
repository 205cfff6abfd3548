#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "models/parameter_table.h"

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

// A bucket: the unit of gradient reduction. All its pieces belong to one group.
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
// buckets()), each exactly once a micro-batch:  begin(b); write every piece into gradient(b, i)
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
  std::int64_t sequences = 0;             // B
  std::int64_t length = 0;                // T, at most the model's context
  std::span<const std::int32_t> inputs;   // [B*T] token ids
  std::span<const std::int32_t> targets;  // [B*T] token ids or kIgnored; classification: [B] class
                                          // ids; empty when only logits are wanted
  std::int64_t step = 0;                  // attempt, 0-based: part of the key of dropout
  std::int64_t first_sequence = 0;  // global index in [0, batch.global) of sequence 0: likewise
  int poison_block = -1;  // fault injection: NaN into this block's forward output (-1: none)
};
inline constexpr std::int32_t kIgnored = -1;

struct LossOptions {
  double label_smoothing = 0.0;
  double z_loss = 0.0;
  float gradient_weight =
      1.0F;  // loss_scale / D: every token's loss is back-propagated with this weight
  // Not null: it counts and gradient_weight does not; in the memory of the model's device, read
  // when the loss is computed, never on the CPU.
  const float* weight_on_device = nullptr;
};

// Sums over the counted (not ignored) targets of the micro-batch, in fp64, added in row order.
struct LossSums {
  double optimised = 0.0;      // with smoothing and z-loss: what is differentiated
  double cross_entropy = 0.0;  // plain
  std::int64_t counted = 0;
  // Where the numbers first ceased to be finite: Transformer::kNonFiniteEmbeddings, the block whose
  // output holds the first inf or NaN, or `layers` when only the head's result does. Of a training
  // forward, and only when `optimised` is not finite.
  std::int64_t nonfinite_layer = 0;
};

}  // namespace lockstep::models
