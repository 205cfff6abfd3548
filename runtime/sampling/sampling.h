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
#include "models/decoder.h"
#include "models/parameter_table.h"
#include "ops/op_context.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_weights.h"
#include "runtime/config/config.h"
#include "runtime/data/tokenizer/tokenizer.h"
#include "runtime/sampling/scorer.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

struct SampleOptions {
  std::int64_t tokens = 256;  // to add
  double temperature = 1.0;   // logits are divided by it; 0: always the most likely token
  std::int64_t top_k = 0;     // only the k most likely tokens; 0: all
  std::uint64_t seed = 1337;
  double top_p = 1.0;  // only the most likely tokens that make up this share; 1: all
  bool cache = true;   // keys and values are kept from token to token
};

// The checkpoint that `path` names: a checkpoint directory, or the output directory of a run, then
// its newest whole checkpoint. Verified against its hashes. Throws Error(kData).
CheckpointManifest find_checkpoint(const std::string& path, core::Logger& log);

// The configuration stored in a checkpoint. Throws Error(kData).
Config checkpoint_config(const CheckpointManifest& manifest);

// The next token, given the logits [V] (fp32) of the last position: the greatest for temperature 0
// (the lowest id among equals), else drawn from softmax(logits / temperature) over the top_k
// greatest (the lowest ids among equals), and of these over the fewest, greatest first, whose
// probabilities add up to at least top_p. `position`, the number of tokens before it, and the seed
// are all that the draw depends on. Throws Error(kDiverged) when a logit is not finite.
std::int32_t choose_token(std::span<const float> logits, const SampleOptions& options,
                          std::int64_t position);

// The first of `tokens` tokens that a model sees. Where they outgrow the context, the older half of
// what it saw is dropped at once, so that the rest need be computed anew only every context/2
// tokens: it sees between half a context and a whole one.
std::size_t window_begin(std::size_t tokens, std::size_t context);

// Continues texts with the model of a checkpoint, on one rank, in fp32 whatever it was trained in:
// these are the weights as they are stored, and nothing can overflow.
class Sampler final : public Scorer {
 public:
  // Reads the weights. Throws Error(kConfig) for a model that does not predict the next token, and
  // Error(kData) when the checkpoint cannot be read.
  Sampler(const CheckpointManifest& manifest, const Config& config, int threads,
          core::MemoryTracker& memory, WeightsChoice weights = WeightsChoice::kModel);
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // As the training data named it; null when they were token ids without one.
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }

  std::int64_t context() const override { return config_.model.context; }

  std::vector<double> score(std::span<const std::int32_t> tokens, std::size_t first) override;

  // Hands options.tokens tokens to `sink`, one by one as they are chosen, and stops early when it
  // returns false. The model sees the last tokens, from window_begin() on. Same prompt, options and
  // checkpoint: same tokens, at any number of threads. Throws Error(kConfig) for an empty prompt or
  // an id outside the vocabulary.
  void generate(std::span<const std::int32_t> prompt, const SampleOptions& options,
                const std::function<bool(std::int32_t)>& sink);

 private:
  void check_ids(std::span<const std::int32_t> ids) const;
  std::span<const float> next_logits(std::span<const std::int32_t> tokens, bool cache);

  Config config_;
  models::ParameterTable table_;
  BucketLayout layout_;
  std::unique_ptr<comm::Communicator> communicator_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ops::OpContext context_;
  ModelState state_;
  models::Decoder model_;
  std::size_t window_ = 0;           // where what the model has kept begins
  std::int64_t choices_;             // ids below this may be chosen
  std::vector<std::int32_t> input_;  // [context]
};

}  // namespace lockstep::runtime
