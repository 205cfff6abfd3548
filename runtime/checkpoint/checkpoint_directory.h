#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/manifest.h"

// What rank 0 does to OUTPUT/checkpoints. Everything throws Error(kData) naming the path and what
// the system said.
namespace lockstep::runtime {

inline constexpr const char* kTemporaryMark = ".tmp-";

// The step in "step-00000100"; nothing for any other name.
std::optional<std::int64_t> step_of_name(const std::string& name);

// The names of all entries, in no order; none when the directory is not there.
std::vector<std::string> list_entries(const std::string& directory);

// A checkpoint that is about to be saved.
struct PlannedCheckpoint {
  std::int64_t step = 0;
  std::uint64_t tensor_bytes = 0;
  std::int64_t keep = 1;  // checkpoint.keep
};

// Makes a new directory for a checkpoint, removing what interrupted saves left behind, and, where
// the disk has no room otherwise, checkpoints that will not be kept beside this one: never the last.
// Throws when there is no room still, naming what may go.
void begin_temporary(const std::string& checkpoints, const std::string& temporary,
                     const PlannedCheckpoint& planned);

// Best effort: for ways out on which another error is told.
void remove_temporary(const std::string& temporary) noexcept;

// Writes config.yaml and, last, the manifest; then the directory gets its name, and `latest` names
// it.
void publish(const std::string& checkpoints, const std::string& temporary,
             const CheckpointState& state, std::vector<ManifestFile> files,
             const std::string& config_yaml);

// Marks a checkpoint, if it is still there, as one that good steps have followed: file `healthy`,
// which the manifest does not list.
void mark_healthy(const std::string& checkpoint, std::int64_t promoted_at_step);
bool is_healthy(const std::string& checkpoint);

// Removes the oldest until `keep` are left; those of later steps belong to a past that was left
// behind and go first. `newest`, just saved, and the newest healthy one always stay.
void retain(const std::string& checkpoints, std::int64_t keep, std::int64_t newest);

}  // namespace lockstep::runtime
