#include "runtime/checkpoint/checkpoint_weights.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/checkpoint/optimizer_file.h"

namespace lockstep::runtime {

void load_weights(const CheckpointManifest& manifest, const models::ParameterTable& table,
                  const models::ModelConfig& config, WeightsChoice choice,
                  const ParameterSink& sink) {
  std::vector<char> done(static_cast<std::size_t>(table.size()), 0);
  if (choice == WeightsChoice::kEma) {
    const int ranks = manifest.state.world_size;
    std::vector<std::string> shards;
    for (int r = 0; r < ranks; ++r)
      shards.push_back(manifest.directory + "/" + optimizer_file_name(r, ranks));
    const auto take = [&](models::ParameterId id, std::span<const float> values) {
      done[static_cast<std::size_t>(id)] = 1;
      sink(id, values);
    };
    if (!read_averages(shards, table, take)) {
      throw core::Error(
          core::ErrorKind::kConfig,
          fmt::format("{}: expected averaged weights, found none: the run had ema.decay 0; take "
                      "--weights model, or a checkpoint of a run with ema.decay",
                      manifest.directory));
    }
  }
  load_parameters(open_weights(manifest.directory + "/" + kModelFile), table, config,
                  [&](models::ParameterId id, std::span<const float> values) {
                    if (done[static_cast<std::size_t>(id)] == 0) sink(id, values);
                  });
}

}  // namespace lockstep::runtime
