#include "runtime/checkpoint/model_file.h"

#include <memory>
#include <vector>

#include "runtime/checkpoint/huggingface_weights.h"

namespace lockstep::runtime {

WrittenFile write_model_file(const std::string& path, const models::ModelConfig& config,
                             const models::ParameterTable& table, StateCollector& collector) {
  std::unique_ptr<HuggingFaceWriter> writer;
  if (!path.empty()) writer = std::make_unique<HuggingFaceWriter>(path, table, config);
  std::vector<float> values;
  for (models::ParameterId id = 0; id < table.size(); ++id) {
    values.resize(static_cast<std::size_t>(table[id].elements()));
    collector.collect(id, StateCollector::kMaster, values.data());
    if (writer) writer->write(id, values);
  }
  return writer ? writer->finish(Durability::kSynced) : WrittenFile{};
}

void read_model_file(const std::string& path, const models::ModelConfig& config,
                     const models::ParameterTable& table, ModelState& model) {
  load_parameters(open_weights(path), table, config,
                  [&](models::ParameterId id, std::span<const float> values) {
                    model.set_parameter(id, values.data());
                  });
}

}  // namespace lockstep::runtime
