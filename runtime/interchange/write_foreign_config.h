#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "models/model_config.h"

// The way out: a model of ours as the config.json of Hugging Face's Transformers.
namespace lockstep::runtime {

struct ForeignTokens {
  std::optional<std::int64_t> begin;  // bos_token_id
  std::optional<std::int64_t> end;    // eos_token_id
};

// The object for config.json, whatever the model: only where `inexpressible` finds nothing does it
// describe the same model. Rope is written in the form of version 5 and in that of version 4.
nlohmann::ordered_json foreign_config(const models::ModelConfig& model, core::DType dtype,
                                      const ForeignTokens& tokens);

// Each key that no config.json can say, with its value: "model.norm_position: post (a gpt2 model
// has pre)". Found by reading foreign_config() back and comparing; empty when the model can leave.
std::vector<std::string> inexpressible(const models::ModelConfig& model);

// "Qwen3ForCausalLM"
std::string foreign_architecture(const models::ModelConfig& model);

}  // namespace lockstep::runtime
