#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "models/model_config.h"
#include "models/parameter_table.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/checkpoint/safetensors_writer.h"

// Weights in safetensors files with the names and layouts of Hugging Face's Transformers; see
// models/huggingface_names.h for the names.
namespace lockstep::runtime {

// The files behind a path: a .safetensors file; an index (model.safetensors.index.json) of a
// sharded model; or a directory that holds model.safetensors or such an index. Throws Error(kData).
std::vector<SafetensorsFile> open_weights(const std::filesystem::path& path);

// Takes one parameter: fp32 values in canonical order and shape; the span lives for the call.
using ParameterSink = std::function<void(models::ParameterId, std::span<const float>)>;

// Hands every parameter of the table to `sink` exactly once, in canonical order, converted from
// F64, F32, F16 or BF16 and transposed where Hugging Face stores the transpose. Names with and
// without the family's prefix are accepted; buffers and unused heads are passed over; an output
// embedding beside tied embeddings must equal them. Before the first call of `sink` all names,
// types and shapes are checked: throws Error(kData) listing what is missing, unknown, double or of
// a wrong shape. Returns the names of what was passed over.
std::vector<std::string> load_parameters(const std::vector<SafetensorsFile>& files,
                                         const models::ParameterTable& table,
                                         const models::ModelConfig& config,
                                         const ParameterSink& sink);

// Writes parameters as they come, under Hugging Face's names and layouts, as fp32. Equal parameters
// give equal bytes. metadata gets {"format": "pt"}, which Transformers asks for.
class HuggingFaceWriter {
 public:
  HuggingFaceWriter(const std::filesystem::path& path, const models::ParameterTable& table,
                    const models::ModelConfig& config,
                    std::map<std::string, std::string> metadata = {});

  // The next parameter, in canonical order, each exactly once; fp32 values in canonical layout.
  void write(models::ParameterId id, std::span<const float> values);
  WrittenFile finish(Durability durability) { return writer_.finish(durability); }

 private:
  const models::ParameterTable& table_;
  const models::ModelConfig& config_;
  SafetensorsWriter writer_;
  std::vector<float> transposed_;
};

}  // namespace lockstep::runtime
