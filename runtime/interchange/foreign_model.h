#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/model_config.h"

// A model as the config.json of Hugging Face's Transformers describes it, in our terms.
namespace lockstep::runtime {

struct ForeignModel {
  std::string model_type;     // "qwen3"
  models::ModelConfig model;  // what Transformers computes; context: the most positions it allows
  // Key below `model.` -> what it follows from: "rms_norm_eps", or "rms_norm_eps, absent: 1e-06".
  std::map<std::string, std::string> origin;
  // The dropout probabilities by field; model.dropout is theirs where all are equal, else 0.
  std::map<std::string, double> dropouts;
  // Said once, where it differs: what changes neither loss nor gradients of a step by itself.
  std::vector<std::string> notes;

  bool dropouts_agree() const;
};

// The model types that can be expressed: "bert, gpt2, llama, mistral, qwen2, qwen3".
std::string known_model_types();

// Reads the text of a config.json. Every field is used, known to be without effect, or wrong:
// throws Error(kConfig) that names the model type where it is not one of ours, and else lists each
// field that our keys cannot express, with its value and what is legal; Error(kData) for text that
// is not such a file. `origin` begins each message.
ForeignModel read_foreign_model(std::string_view text, const std::string& origin);
ForeignModel read_foreign_model(const std::filesystem::path& config_json);

}  // namespace lockstep::runtime
