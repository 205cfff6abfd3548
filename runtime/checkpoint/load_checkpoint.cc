#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/mapped_file.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/checkpoint/model_file.h"
#include "runtime/checkpoint/optimizer_file.h"

namespace lockstep::runtime {

namespace fs = std::filesystem;

namespace {

std::string text_of(const std::string& path) {
  const core::MappedFile file(path);
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

ParsedManifest parse(const std::string& directory) {
  const std::string path = directory + "/" + kManifestFile;
  return parse_manifest(text_of(path), path);
}

}  // namespace

CheckpointManifest read_manifest(const std::string& directory) {
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored)) {
    throw core::Error(
        core::ErrorKind::kData,
        fmt::format("{}: expected a checkpoint directory, as in "
                    "OUTPUT/checkpoints/step-00000100, found {}",
                    directory, fs::exists(directory, ignored) ? "a file" : "nothing"));
  }
  return {directory, parse(directory).state, text_of(directory + "/" + kConfigFile)};
}

void verify_checkpoint(const CheckpointManifest& manifest) {
  const ParsedManifest parsed = parse(manifest.directory);
  for (const char* needed : {kModelFile, kOptimizerFile, kConfigFile}) {
    const bool listed = std::any_of(parsed.files.begin(), parsed.files.end(),
                                    [&](const ManifestFile& f) { return f.name == needed; });
    if (!listed) {
      throw core::Error(core::ErrorKind::kData,
                        fmt::format("{}: the manifest does not list {}; use another checkpoint",
                                    manifest.directory, needed));
    }
  }
  for (const ManifestFile& expected : parsed.files) {
    const ManifestFile found = describe_file(manifest.directory, expected.name);
    if (found.bytes == expected.bytes && found.hash == expected.hash) continue;
    throw core::Error(
        core::ErrorKind::kData,
        fmt::format("{}/{} is torn or altered: expected {} bytes with hash {:016x}, found {} bytes "
                    "with hash {:016x}; use another checkpoint",
                    manifest.directory, expected.name, expected.bytes, expected.hash, found.bytes,
                    found.hash));
  }
}

void load_checkpoint(const CheckpointManifest& manifest, const models::ParameterTable& table,
                     const Config& config, ModelState& model) {
  read_model_file(manifest.directory + "/" + kModelFile, config.model, table, model);
  read_optimizer_file(manifest.directory + "/" + kOptimizerFile, table, model);
}

bool belongs_to(const CheckpointManifest& manifest, const std::string& output) {
  std::error_code failure;
  const fs::path parent = fs::path(manifest.directory + "/.").parent_path().parent_path();
  return fs::equivalent(parent, fs::path(output) / "checkpoints", failure) && !failure;
}

std::optional<CheckpointManifest> newest_whole_checkpoint(const std::string& output,
                                                          core::Logger& log) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(output + "/checkpoints", ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-")) names.push_back(name);
  }
  std::sort(names.rbegin(), names.rend());
  for (const std::string& name : names) {
    const std::string directory = output + "/checkpoints/" + name;
    if (name.find(".tmp-") != std::string::npos) {
      log.warning("resume", "passing over {}: it was never finished", directory);
      continue;
    }
    try {
      CheckpointManifest manifest = read_manifest(directory);
      verify_checkpoint(manifest);
      return manifest;
    } catch (const core::Error& error) {
      log.warning("resume", "passing over {}: {}", directory, error.what());
    }
  }
  return std::nullopt;
}

}  // namespace lockstep::runtime
