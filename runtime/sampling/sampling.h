#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/log.h"
#include "core/memory.h"
#include "models/parameter_table.h"
#include "models/transformer.h"
#include "ops/op_context.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_weights.h"
#include "runtime/config/config.h"
#include "runtime/data/tokenizer/tokenizer.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

struct SampleOptions {
  std::int64_t tokens = 256;  // to add
  double temperature = 1.0;   // logits are divided by it; 0: always the most likely token
  std::int64_t top_k = 0;     // only the k most likely tokens; 0: all
  std::uint64_t seed = 1337;
};

// The checkpoint that `path` names: a checkpoint directory, or the output directory of a run, then
// its newest whole checkpoint. Verified against its hashes. Throws Error(kData).
CheckpointManifest find_checkpoint(const std::string& path, core::Logger& log);

// The configuration stored in a checkpoint. Throws Error(kData).
Config checkpoint_config(const CheckpointManifest& manifest);

// The next token, given the logits [V] (fp32) of the last position: the greatest for temperature 0
// (the lowest id among equals), else drawn from softmax(logits / temperature) over the top_k
// greatest (the lowest ids among equals). `position`, the number of tokens before it, and the seed
// are all that the draw depends on. Throws Error(kDiverged) when a logit is not finite.
std::int32_t choose_token(std::span<const float> logits, const SampleOptions& options,
                          std::int64_t position);

// Continues texts with the model of a checkpoint, on one rank, in fp32 whatever it was trained in:
// these are the weights as they are stored, and nothing can overflow.
class Sampler {
 public:
  // Reads the weights. Throws Error(kConfig) for a model that does not predict the next token, and
  // Error(kData) when the checkpoint cannot be read.
  Sampler(const CheckpointManifest& manifest, const Config& config, int threads,
          core::MemoryTracker& memory, WeightsChoice weights = WeightsChoice::kModel);
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // As the training data named it; null when they were token ids without one.
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }

  std::int64_t context() const { return config_.model.context; }

  // Hands options.tokens tokens to `sink`, one by one as they are chosen, and stops early when it
  // returns false. Only the last context() tokens before each are seen by the model. Same prompt,
  // options and checkpoint: same tokens, at any number of threads. Throws Error(kConfig) for an
  // empty prompt or an id outside the vocabulary.
  void generate(std::span<const std::int32_t> prompt, const SampleOptions& options,
                const std::function<bool(std::int32_t)>& sink);

 private:
  void check_prompt(std::span<const std::int32_t> prompt) const;
  std::span<const float> next_logits(std::span<const std::int32_t> tokens);

  Config config_;
  models::ParameterTable table_;
  BucketLayout layout_;
  std::unique_ptr<comm::Communicator> communicator_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ops::OpContext context_;
  ModelState state_;
  models::Transformer model_;
  std::int64_t choices_;             // ids below this may be chosen
  std::vector<std::int32_t> input_;  // [context]
};

}  // namespace lockstep::runtime
