#include "runtime/checkpoint/checkpoint_weights.h"

#include <fmt/format.h>

#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/checkpoint/optimizer_file.h"

namespace lockstep::runtime {

namespace {

StoredAverages averages_of(const CheckpointManifest& manifest,
                           const models::ParameterTable& table) {
  const int ranks = manifest.state.world_size;
  std::vector<std::string> shards;
  for (int r = 0; r < ranks; ++r)
    shards.push_back(manifest.directory + "/" + optimizer_file_name(r, ranks));
  return {shards, table};
}

}  // namespace

void load_weights(const CheckpointManifest& manifest, const models::ParameterTable& table,
                  const models::ModelConfig& config, WeightsChoice choice,
                  const ParameterSink& sink) {
  const std::vector<SafetensorsFile> weights = open_weights(manifest.directory + "/" + kModelFile);
  if (choice == WeightsChoice::kModel) {
    load_parameters(weights, table, config, sink);
    return;
  }
  const StoredAverages averages = averages_of(manifest, table);
  if (!averages.any()) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("{}: expected averaged weights, found none: the run had ema.decay 0; take "
                    "--weights model, or a checkpoint of a run with ema.decay",
                    manifest.directory));
  }
  std::vector<float> average;
  load_parameters(weights, table, config,
                  [&](models::ParameterId id, std::span<const float> values) {
                    const bool averaged = averages.read(id, average);
                    sink(id, averaged ? std::span<const float>(average) : values);
                  });
}

}  // namespace lockstep::runtime
