#pragma once

#include <cstddef>
#include <cstdint>
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

// Of weights that begin a training. What is not in the files starts as `seed` has it.
struct LoadOptions {
  // Rows of vocabulary and learned positions may be more or fewer than configured: cut, or padded.
  bool resize = false;
  // Pooler and classifier of a classification may be missing.
  bool new_head = false;
  std::uint64_t seed = 0;
};

struct LoadedWeights {
  std::vector<std::string> passed_over;  // tensors of the files that the model has no use for
  std::vector<std::string> resized;      // "wte.weight [50257, 768] to [50304, 768]"
  std::vector<std::string> fresh;        // parameters of a new head
};

// What load_parameters() below would say of the files, without reading a value.
LoadedWeights match_parameters(const std::vector<SafetensorsFile>& files,
                               const models::ParameterTable& table,
                               const models::ModelConfig& config, const LoadOptions& options = {});

// Hands every parameter of the table to `sink` exactly once, in canonical order, converted from
// F64, F32, F16 or BF16 and transposed where Hugging Face stores the transpose. Names with and
// without the family's prefix, and behind the prefixes of PyTorch's wrappers, are accepted; buffers
// and unused heads are passed over; an output embedding beside tied embeddings must equal them, and
// stands for them where it is alone. Before the first call of `sink` all names, types and shapes
// are checked: throws Error(kData) listing what is missing, unknown, double or of a wrong shape.
// Error(kData) too at the first value that is not finite, naming tensor and file.
LoadedWeights load_parameters(const std::vector<SafetensorsFile>& files,
                              const models::ParameterTable& table,
                              const models::ModelConfig& config, const ParameterSink& sink,
                              const LoadOptions& options = {});

// Which parameters a file holds, and as what type.
struct WeightsFormat {
  core::DType dtype = core::DType::kF32;        // kF32, kBF16 or kF16
  std::vector<models::ParameterId> parameters;  // in canonical order; empty: all
};

// Writes parameters as they come, under Hugging Face's names and layouts. Equal parameters give
// equal bytes. metadata gets {"format": "pt"}, which Transformers asks for.
class HuggingFaceWriter {
 public:
  HuggingFaceWriter(const std::filesystem::path& path, const models::ParameterTable& table,
                    const models::ModelConfig& config,
                    std::map<std::string, std::string> metadata = {}, WeightsFormat format = {});

  // The next parameter, in canonical order, each exactly once; fp32 values in canonical layout.
  // Throws Error(kData) for a value that the file's type cannot hold.
  void write(models::ParameterId id, std::span<const float> values);
  WrittenFile finish(Durability durability) { return writer_.finish(durability); }

 private:
  const models::ParameterTable& table_;
  const models::ModelConfig& config_;
  core::DType dtype_;
  SafetensorsWriter writer_;
  std::vector<float> transposed_;
  std::vector<std::byte> converted_;
};

}  // namespace lockstep::runtime
