#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"

namespace lockstep::runtime {

inline constexpr int kCheckpointVersion = 1;
inline constexpr const char* kManifestFile = "manifest.json";
inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kConfigFile = "config.yaml";

// A file of a checkpoint, as the manifest lists it.
struct ManifestFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t hash = 0;  // XXH3-64 of the contents
};

// A list of files as text, for the way from rank to rank, and back.
std::string manifest_files_text(const std::vector<ManifestFile>& files);
std::vector<ManifestFile> parse_manifest_files(const std::string& text);

// The text of manifest.json; deterministic, ends in a newline. Its last field, "xxh3", is the hash
// of the text without that field, so that an altered manifest shows.
std::string manifest_text(const CheckpointState& state, const std::vector<ManifestFile>& files);

struct ParsedManifest {
  CheckpointState state;
  std::vector<ManifestFile> files;
};
// Throws Error(kData) naming `path` and the field that is missing, of a wrong type or of an unknown
// version, or saying that the text is torn or altered.
ParsedManifest parse_manifest(const std::string& text, const std::string& path);

// Size and hash of a file. Throws Error(kData) when it cannot be read.
ManifestFile describe_file(const std::string& directory, const std::string& name);

}  // namespace lockstep::runtime
