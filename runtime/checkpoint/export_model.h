#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_weights.h"

namespace lockstep::runtime {

inline constexpr const char* kForeignConfigFile = "config.json";  // what from_pretrained() reads

struct ExportOptions {
  WeightsChoice weights = WeightsChoice::kModel;
  core::DType dtype = core::DType::kF32;           // kF32, kBF16 or kF16
  std::uint64_t max_shard_bytes = 50'000'000'000;  // a tensor is never split
};

// What was written, by name, in order.
struct ExportedModel {
  std::string architecture;  // "LlamaForCausalLM"
  std::vector<std::string> files;
  std::vector<std::string> remarks;
};

// The text of a config.json for a model of ours, or "" if Transformers has no such model.
std::string config_json(const models::ModelConfig& model, const std::string& tokenizer);

// Writes a whole checkpoint as what from_pretrained() of Hugging Face's Transformers loads:
// config.json, generation_config.json (of a causal model), model.safetensors or, above
// max_shard_bytes, model-00001-of-0000N.safetensors with model.safetensors.index.json. `output`
// must not exist or be empty. Throws Error(kConfig) naming each key that cannot be expressed there.
ExportedModel export_model(const CheckpointManifest& manifest, const Config& config,
                           const std::string& output, const ExportOptions& options);

}  // namespace lockstep::runtime
