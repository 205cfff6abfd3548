#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/memory.h"
#include "models/activation_observer.h"
#include "models/model_config.h"
#include "models/model_io.h"
#include "models/parameter_table.h"
#include "models/recompute.h"
#include "ops/op_context.h"

namespace lockstep::models {

// One line of the memory table: what a region of the model's own memory is for and how large it is.
struct MemoryRegion {
  std::string name;
  std::size_t bytes = 0;
};

// The decoder/encoder Transformer of a ModelConfig, one instance per rank, working on one
// micro-batch at a time. Its activations are carved once from buffers sized by memory_regions();
// nothing is allocated afterwards. Where each part is: see models/README.md.
class Transformer {
 public:
  // compute: fp32, bf16, fp16; fp64 for tests. max_sequences: B of the largest micro-batch.
  Transformer(const ModelConfig& config, const ParameterTable& table, core::DType compute,
              std::int64_t max_sequences, std::uint64_t seed, ops::OpContext& context,
              core::MemoryTracker& memory, Recompute recompute = Recompute::kNone);
  ~Transformer();

  // Training forward: computes the loss and keeps what backward needs, a copy of the tokens
  // included. Dropout is active. *sums lies in the memory of the context's device (ops::Results)
  // and is there when the context's work is done. Throws Error(kData) on a token or target outside
  // the vocabulary.
  void forward(const MicroBatch& batch, const ops::LossOptions& loss, ParameterSource& parameters,
               ops::LossSums* sums);
  // The same, waiting for the sums.
  ops::LossSums forward(const MicroBatch& batch, const ops::LossOptions& loss,
                        ParameterSource& parameters);

  // Backward of the last forward(); fills every bucket of the sink in backward order. Once per
  // forward(), because it works in place; the parameters must be those of the forward.
  void backward(ParameterSource& parameters, GradientSink& gradients);

  static constexpr int kNonFiniteEmbeddings = -1;  // ops::LossSums::nonfinite_layer

  // Every forward() from now on tells of its activations as it goes, layer after layer; null: of
  // none. For replays: it slows a forward down.
  void observe(ActivationObserver observer);

  // Forward without dropout; optimised equals cross_entropy. Like logits(), it uses the memory of
  // forward(): a backward that was still due is no longer possible.
  ops::LossSums evaluate(const MicroBatch& batch, ParameterSource& parameters);

  // Logits in fp32 (fp64 under fp64) of every position, [B*T, V] ([B, classes] for classification),
  // no dropout. Valid until the next call.
  core::ConstTensorView logits(const MicroBatch& batch, ParameterSource& parameters);

  // What a Transformer of these sizes allocates on a device of this kind, exactly: the regions of
  // `lockstep plan` under the names of the memory tracker. The scratch of its OpContext
  // ("workspace") is not among them.
  static std::vector<MemoryRegion> memory_regions(const ModelConfig& config, core::DType compute,
                                                  std::int64_t max_sequences,
                                                  core::DeviceType device = core::DeviceType::kCpu,
                                                  const BackwardPlan& backward = {});

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace lockstep::models
