#include "runtime/checkpoint/model_file.h"

#include "core/error.h"
#include "runtime/checkpoint/huggingface_weights.h"

namespace lockstep::runtime {

WrittenFile write_model_file(const std::string& path, const models::ModelConfig& config,
                             const models::ParameterTable& table, const Snapshot& snapshot,
                             const std::atomic<bool>& abandoned) {
  HuggingFaceWriter writer(path, table, config);
  for (models::ParameterId id = 0; id < table.size(); ++id) {
    if (abandoned) throw core::Error(core::ErrorKind::kStopped, path + " was given up");
    writer.write(id, snapshot.master(table, id));
  }
  return writer.finish(Durability::kSynced);
}

void read_model_file(const std::string& path, const models::ModelConfig& config,
                     const models::ParameterTable& table, ModelState& model) {
  load_parameters(open_weights(path), table, config,
                  [&](models::ParameterId id, std::span<const float> values) {
                    model.set_parameter(id, values.data());
                  });
}

}  // namespace lockstep::runtime
