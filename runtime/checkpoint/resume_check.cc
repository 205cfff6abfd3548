#include "runtime/checkpoint/resume_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

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
  const auto same = [](const auto& a, const auto& b) { return a.same_contents(b); };
  if (!std::equal(before.begin(), before.end(), files.begin(), files.end(), same) &&
      std::is_permutation(before.begin(), before.end(), files.begin(), files.end(), same)) {
    std::vector<std::string> names;
    for (const DataFingerprint& file : before)
      names.push_back(file.name);
    refuse(manifest, fmt::format("it was trained on these files in another order; list them in "
                                 "data.train as {}",
                                 fmt::join(names, ", ")));
  }
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
    if (change.key == "model.init_from") {
      refuse(
          manifest,
          fmt::format("model.init_from was {} and is now {}; a resumed run takes its weights from "
                      "the checkpoint: give the former again, or start a new run",
                      change.before, change.after));
    }
    if (change.key.starts_with("model.")) {
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
