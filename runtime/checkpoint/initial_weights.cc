#include "runtime/checkpoint/initial_weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "runtime/checkpoint/export_model.h"
#include "runtime/checkpoint/huggingface_weights.h"
#include "runtime/config/rules.h"
#include "runtime/config/schema.h"
#include "runtime/interchange/foreign_check.h"

namespace lockstep::runtime {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kNamed = 8;  // of a list in one line

// "a, b and 12 more"
std::string shortened(const std::vector<std::string>& names) {
  if (names.size() <= kNamed) return fmt::format("{}", fmt::join(names, ", "));
  return fmt::format("{} and {} more", fmt::join(names.begin(), names.begin() + kNamed, ", "),
                     names.size() - kNamed);
}

// The keys that leave no trace in names and shapes, as configured.
std::string assumed(const Config& config) {
  std::vector<std::string> values;
  for (const char* name : {"heads", "activation", "norm_eps", "norm_position", "rope_theta",
                           "rope_scaling.type", "attention_window", "logit_softcap"}) {
    const Key* key = find_key(std::string("model.") + name);
    if (has_effect(key->path, config))
      values.push_back(fmt::format("{} {}", name, format_value(key->get(config))));
  }
  return fmt::format("{}", fmt::join(values, ", "));
}

void check_config(const Config& config, core::Logger& log) {
  std::error_code ignored;
  const fs::path given = config.init_from;
  const fs::path folder = fs::is_directory(given, ignored) ? given : given.parent_path();
  const fs::path described = folder / kForeignConfigFile;
  if (!fs::exists(described, ignored)) {
    log.info("weights", "no config.json in {}: {} are assumed, as configured", folder.string(),
             assumed(config));
    return;
  }
  const ForeignModel foreign = read_foreign_model(described);
  require_same_model(foreign, config, described.string());
  log.info("weights", "{} describes the configured model ({})", described.string(),
           foreign.model_type);
  for (const std::string& line : allowed_differences(foreign, config))
    log.info("weights", "{}", line);
}

// "model.safetensors (148 tensors, F32)"
std::string describe(const SafetensorsFile& file) {
  std::set<std::string> types;
  for (const StoredTensor& tensor : file.tensors())
    types.insert(tensor.stored_type);
  return fmt::format("{} ({} tensors, {})", file.path().string(), file.tensors().size(),
                     fmt::join(types, " and "));
}

}  // namespace

void load_initial_weights(const Config& config, const models::ParameterTable& table,
                          ModelState& model, core::Logger& log) {
  check_config(config, log);
  const std::vector<SafetensorsFile> files = open_weights(config.init_from);
  const LoadOptions options{
      .resize = config.init_resize,
      .new_head = config.model.task == models::Task::kClassification,
      .seed = config.run.seed,
  };
  const LoadedWeights loaded = load_parameters(
      files, table, config.model,
      [&](models::ParameterId id, std::span<const float> values) {
        model.set_parameter(id, values.data());
      },
      options);
  std::vector<std::string> sources;
  for (const SafetensorsFile& file : files)
    sources.push_back(describe(file));
  log.info("weights", "{} parameters from {}", table.size() - static_cast<int>(loaded.fresh.size()),
           shortened(sources));
  if (!loaded.passed_over.empty())
    log.info("weights", "left, since the model has no use for them: {}",
             shortened(loaded.passed_over));
  if (!loaded.resized.empty()) log.info("weights", "cut or padded: {}", shortened(loaded.resized));
  if (!loaded.fresh.empty())
    log.info("weights", "not in the files, so new: {}", shortened(loaded.fresh));
}

}  // namespace lockstep::runtime
