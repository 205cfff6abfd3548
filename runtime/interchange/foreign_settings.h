#pragma once

#include <map>
#include <string>
#include <vector>

// Settings of other trainers in our keys. docs/coming_from.md has a row for each of theirs.
namespace lockstep::runtime {

struct ForeignSettings {
  std::map<std::string, std::string> keys;  // "batch.micro" -> "4", as in YAML
  std::vector<std::string> left;  // "fp16.x: why", of each that was not mapped, or not in full
};

// What a file of settings may lean on. With a base configuration "auto" means: as there.
enum class SettingsBase { kNone, kGiven };

// A configuration of DeepSpeed (ds.json). Throws Error(kConfig) naming every key that changes
// numbers and cannot be expressed; Error(kData) for text that is no JSON object.
ForeignSettings read_deepspeed(const std::string& text, const std::string& origin,
                               SettingsBase base);

// TrainingArguments of Hugging Face's Trainer, as to_json_string() writes them. Throws likewise.
ForeignSettings read_training_arguments(const std::string& text, const std::string& origin);

// The keys as YAML sections; over `base`, a configuration file, as a whole configuration.
std::string settings_as_yaml(const ForeignSettings& settings, const std::string& base);

}  // namespace lockstep::runtime
