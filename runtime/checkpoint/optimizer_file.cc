#include "runtime/checkpoint/optimizer_file.h"

#include <fmt/format.h>

#include <memory>
#include <vector>

#include "runtime/checkpoint/safetensors.h"

namespace lockstep::runtime {

namespace {

std::string tensor_name(int state, const models::ParameterSpec& spec) {
  return fmt::format("state{}.{}", state, spec.name);
}

std::vector<std::int64_t> dimensions(const models::ParameterSpec& spec) {
  std::vector<std::int64_t> dims;
  for (int i = 0; i < spec.shape.rank(); ++i)
    dims.push_back(spec.shape[i]);
  return dims;
}

}  // namespace

WrittenFile write_optimizer_file(const std::string& path, const models::ParameterTable& table,
                                 ModelState& model, StateCollector& collector) {
  std::unique_ptr<SafetensorsWriter> writer;
  if (!path.empty()) {
    std::vector<TensorToWrite> tensors;
    for (int state = 0; state < model.state_tensors(); ++state) {
      for (const models::ParameterSpec& spec : table.specs()) {
        tensors.push_back({tensor_name(state, spec), core::DType::kF32, dimensions(spec)});
      }
    }
    writer = std::make_unique<SafetensorsWriter>(path, std::move(tensors));
  }
  std::vector<float> values;
  for (int state = 0; state < model.state_tensors(); ++state) {
    for (models::ParameterId id = 0; id < table.size(); ++id) {
      values.resize(static_cast<std::size_t>(table[id].elements()));
      collector.collect(id, state, values.data());
      if (writer) writer->write(tensor_name(state, table[id]), std::span<const float>(values));
    }
  }
  return writer ? writer->finish(Durability::kSynced) : WrittenFile{};
}

void read_optimizer_file(const std::string& path, const models::ParameterTable& table,
                         ModelState& model) {
  const SafetensorsFile file(path);
  std::vector<float> values;
  for (int state = 0; state < model.state_tensors(); ++state) {
    for (models::ParameterId id = 0; id < table.size(); ++id) {
      const models::ParameterSpec& spec = table[id];
      const StoredTensor* tensor = file.find(tensor_name(state, spec));
      if (tensor == nullptr) {
        file.fail(fmt::format("tensor {} is missing: was the optimizer another one?",
                              tensor_name(state, spec)));
      }
      if (tensor->shape != dimensions(spec)) {
        file.fail(fmt::format("tensor {}: expected shape {}, found {}", tensor->name,
                              core::to_string(spec.shape), shape_text(tensor->shape)));
      }
      values.resize(static_cast<std::size_t>(spec.elements()));
      file.read(*tensor, values);
      model.set_state(state, id, values.data());
    }
  }
}

}  // namespace lockstep::runtime
