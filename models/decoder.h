#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/memory.h"
#include "models/model_config.h"
#include "models/model_io.h"
#include "models/parameter_table.h"
#include "ops/op_context.h"

namespace lockstep::models {

// Logits of one growing sequence, in fp32 on the CPU. Keys and values of what was appended are kept,
// so that a token more costs one position and its attention over those before it, not the whole
// sequence again. Of a causal model with the task causal_lm.
class Decoder {
 public:
  Decoder(const ModelConfig& config, const ParameterTable& table, ops::OpContext& context,
          core::MemoryTracker& memory);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  std::int64_t length() const { return length_; }  // positions, at most the context

  // The logits of the appended positions, [tokens.size(), V]: valid until the next call. The
  // parameters must be those of the calls since the last clear(). Throws Error(kData) on a token
  // outside the vocabulary.
  core::ConstTensorView append(std::span<const std::int32_t> tokens, ParameterSource& parameters);

  void clear() { length_ = 0; }

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
  std::int64_t length_ = 0;
};

}  // namespace lockstep::models
