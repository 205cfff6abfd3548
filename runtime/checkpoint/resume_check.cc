#include "runtime/checkpoint/resume_check.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/json_text.h"
#include "runtime/config/load_config.h"

namespace lockstep::runtime {

namespace {

[[noreturn]] void refuse(const CheckpointManifest& manifest, const std::string& what) {
  throw core::Error(core::ErrorKind::kConfig,
                    fmt::format("cannot resume from {}: {}", manifest.directory, what));
}

void check_data(const CheckpointManifest& manifest, const std::vector<DataFingerprint>& files) {
  const std::vector<DataFingerprint>& before = manifest.state.training_files;
  if (before.size() != files.size()) {
    refuse(manifest, fmt::format("it was trained on {} data files, data.train names {}",
                                 before.size(), files.size()));
  }
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (before[i].same_contents(files[i])) continue;
    refuse(
        manifest,
        fmt::format("data file {} has changed: expected {} bytes and hash {}, found {} bytes and "
                    "hash {} ({}); give the original data, or start a new run with "
                    "model.init_from",
                    before[i].name, before[i].bytes, before[i].hash, files[i].bytes, files[i].hash,
                    files[i].name));
  }
}

}  // namespace

std::vector<ConfigDifference> check_resumable(const CheckpointManifest& manifest,
                                              const Config& config,
                                              const std::vector<DataFingerprint>& training_files) {
  const Config before = parse_config(manifest.config_yaml, manifest.directory + "/config.yaml");
  std::vector<ConfigDifference> changes;
  for (ConfigDifference& change : diff_configs(before, config)) {
    if (change.key.starts_with("model.") && change.key != "model.init_from") {
      refuse(manifest, fmt::format("{} was {} and is now {}; the weights belong to the former",
                                   change.key, change.before, change.after));
    }
    changes.push_back(std::move(change));
  }
  check_data(manifest, training_files);
  return changes;
}

std::string resume_fields(const CheckpointManifest& manifest,
                          const std::vector<ConfigDifference>& changes) {
  std::string fields =
      fmt::format(R"("step":{},"checkpoint":{},"world_size":{},"changed":[)", manifest.state.step,
                  core::json_string(manifest.directory), manifest.state.world_size);
  for (std::size_t i = 0; i < changes.size(); ++i) {
    fields += fmt::format(R"({}{{"key":{},"before":{},"after":{}}})", i == 0 ? "" : ",",
                          core::json_string(changes[i].key), core::json_string(changes[i].before),
                          core::json_string(changes[i].after));
  }
  return fields + "]";
}

}  // namespace lockstep::runtime
