#include "runtime/checkpoint/export_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "models/huggingface_names.h"
#include "runtime/checkpoint/huggingface_weights.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/data/tokenizer/tokenizer_files.h"
#include "runtime/files/write_file.h"
#include "runtime/interchange/write_foreign_config.h"

namespace lockstep::runtime {

namespace {

namespace fs = std::filesystem;
using models::ParameterId;
using nlohmann::ordered_json;

void require_expressible(const models::ModelConfig& model) {
  const std::vector<std::string> keys = inexpressible(model);
  if (keys.empty()) return;
  throw core::Error(
      core::ErrorKind::kConfig,
      fmt::format("Hugging Face's Transformers has no model that computes this one: {}",
                  fmt::join(keys, "; ")));
}

void prepare_directory(const std::string& output) {
  std::error_code error;
  fs::create_directories(output, error);
  if (!fs::is_directory(output))
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("{}: cannot be made a directory: {}", output, error.message()));
  if (!fs::is_empty(output, error) || error)
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("{}: expected an empty directory, or none, found files in it; "
                                  "name another",
                                  output));
}

// Of a tokenizer's description; none where there is no tokenizer.
std::unique_ptr<Tokenizer> tokenizer_of(const std::string& description) {
  if (description.empty()) return nullptr;
  return tokenizer_from_description(description, kManifestFile);
}

ForeignTokens tokens_of(const Tokenizer* tokenizer) {
  if (tokenizer == nullptr) return {};
  const std::vector<std::int32_t> beginning = tokenizer->beginning();
  ForeignTokens tokens;
  if (!beginning.empty()) tokens.begin = beginning.back();
  if (const auto end = tokenizer->end_of_text()) tokens.end = *end;
  return tokens;
}

// Parameters by file: in order, a new file where the next would exceed the limit.
std::vector<std::vector<ParameterId>> make_shards(const models::ParameterTable& table,
                                                  const ExportOptions& options) {
  std::vector<std::vector<ParameterId>> shards(1);
  std::uint64_t bytes = 0;
  for (ParameterId id = 0; id < table.size(); ++id) {
    const std::uint64_t own =
        static_cast<std::uint64_t>(table[id].elements()) * core::size_of(options.dtype);
    if (!shards.back().empty() && bytes + own > options.max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(id);
    bytes += own;
  }
  return shards;
}

std::string shard_name(std::size_t shard, std::size_t shards) {
  if (shards == 1) return kModelFile;
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
}

std::string index_text(const models::ParameterTable& table, const models::ModelConfig& model,
                       const std::vector<std::vector<ParameterId>>& shards, core::DType dtype) {
  ordered_json map = ordered_json::object();
  for (std::size_t s = 0; s < shards.size(); ++s)
    for (const ParameterId id : shards[s])
      map[models::huggingface_name(model, table[id]).name] = shard_name(s, shards.size());
  const auto elements = static_cast<std::uint64_t>(table.total_elements());
  const ordered_json index = {
      {"metadata",
       {{"total_parameters", elements}, {"total_size", elements * core::size_of(dtype)}}},
      {"weight_map", map}};
  return index.dump(2) + "\n";
}

// One pass over the checkpoint's weights for each file, a tensor at a time in memory.
class WeightsExport {
 public:
  WeightsExport(const models::ParameterTable& table, const models::ModelConfig& model,
                const std::string& output, const ExportOptions& options)
      : table_(table),
        model_(model),
        output_(output),
        dtype_(options.dtype),
        shards_(make_shards(table, options)) {}

  void take(ParameterId id, std::span<const float> values) {
    if (!writer_) {
      const std::string name = shard_name(shard_, shards_.size());
      files_.push_back(name);
      writer_.emplace(fs::path(output_) / name, table_, model_,
                      std::map<std::string, std::string>{}, WeightsFormat{dtype_, shards_[shard_]});
    }
    writer_->write(id, values);
    if (id != shards_[shard_].back()) return;
    writer_->finish(Durability::kSynced);
    writer_.reset();
    ++shard_;
  }

  std::vector<std::string> finish() {
    if (shards_.size() > 1) {
      files_.emplace_back("model.safetensors.index.json");
      write_synced(output_ + "/" + files_.back(), index_text(table_, model_, shards_, dtype_));
    }
    return files_;
  }

 private:
  const models::ParameterTable& table_;
  const models::ModelConfig& model_;
  const std::string& output_;
  core::DType dtype_;
  std::vector<std::vector<ParameterId>> shards_;
  std::size_t shard_ = 0;
  std::optional<HuggingFaceWriter> writer_;
  std::vector<std::string> files_;
};

}  // namespace

std::string config_json(const models::ModelConfig& model, const std::string& tokenizer) {
  if (!inexpressible(model).empty()) return "";
  return foreign_config(model, core::DType::kF32, tokens_of(tokenizer_of(tokenizer).get()))
             .dump(2) +
         "\n";
}

ExportedModel export_model(const CheckpointManifest& manifest, const Config& config,
                           const std::string& output, const ExportOptions& options) {
  const models::ModelConfig& model = config.model;
  require_expressible(model);
  verify_checkpoint(manifest);
  prepare_directory(output);
  ExportedModel result;
  result.architecture = foreign_architecture(model);
  const auto write = [&](const std::string& name, const ordered_json& content) {
    write_synced(output + "/" + name, content.dump(2) + "\n");
    result.files.push_back(name);
  };
  const auto tokenizer = tokenizer_of(manifest.state.tokenizer);
  const ForeignTokens tokens = tokens_of(tokenizer.get());
  const ordered_json described = foreign_config(model, options.dtype, tokens);
  write(kForeignConfigFile, described);
  if (model.task == models::Task::kCausalLm)
    write("generation_config.json", {{"_from_model_config", true},
                                     {"bos_token_id", described["bos_token_id"]},
                                     {"eos_token_id", described["eos_token_id"]}});
  const models::ParameterTable table(model);
  WeightsExport weights(table, model, output, options);
  load_weights(manifest, table, model, options.weights,
               [&](ParameterId id, std::span<const float> values) { weights.take(id, values); });
  for (std::string& name : weights.finish())
    result.files.push_back(std::move(name));
  if (tokenizer != nullptr) {
    write_tokenizer_files(*tokenizer, output);
    result.files.insert(result.files.end(), {kTokenizerFile, kTokenizerConfigFile});
  }
  if (model.family == models::Family::kLlama && model.dropout > 0.0)
    result.remarks.push_back(
        fmt::format("model.dropout {} has no counterpart there: attention_dropout 0.0 was written",
                    model.dropout));
  return result;
}

}  // namespace lockstep::runtime
