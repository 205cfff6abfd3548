#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "runtime/agree.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/checkpoint/model_file.h"
#include "runtime/checkpoint/optimizer_file.h"
#include "runtime/config/dump_config.h"
#include "runtime/write_file.h"

namespace lockstep::runtime {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPrefix = "step-";
constexpr const char* kTemporary = ".tmp-";

// Room for the tensors, with 5 % and a mebibyte for headers and the other files.
void check_space(const std::string& directory, const models::ParameterTable& table, int states) {
  const auto tensors = static_cast<std::uint64_t>(table.total_elements()) *
                       static_cast<std::uint64_t>(1 + states) * sizeof(float);
  const std::uint64_t need = tensors + tensors / 20 + (1U << 20);
  std::error_code failure;
  const fs::space_info space = fs::space(directory, failure);
  if (failure || space.available >= need) return;
  throw core::Error(
      core::ErrorKind::kData,
      fmt::format("no room for a checkpoint in {}: expected at least {} MiB free, found "
                  "{} MiB; free some space, lower checkpoint.keep, or change run.output",
                  directory, need >> 20, space.available >> 20));
}

void remove_leftovers(const std::string& checkpoints) {
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints)) {
    if (entry.path().filename().string().find(kTemporary) == std::string::npos) continue;
    fs::remove_all(entry.path());
  }
}

// The manifest is written last, and the directory gets its name only when all is on disk.
void publish(const std::string& temporary, const std::string& checkpoints, const std::string& name,
             const CheckpointState& state, std::vector<ManifestFile> files, const Config& config) {
  write_synced(temporary + "/" + kConfigFile, to_yaml(config));
  files.push_back(describe_file(temporary, kConfigFile));
  write_synced(temporary + "/" + kManifestFile, manifest_text(state, files));
  sync_path(temporary);
  const std::string target = checkpoints + "/" + name;
  if (fs::exists(target)) {  // an earlier attempt's, of steps that are being computed again
    const std::string replaced = fmt::format("{}{}replaced-{}", target, kTemporary, getpid());
    fs::rename(target, replaced);
    fs::rename(temporary, target);
    fs::remove_all(replaced);
  } else {
    fs::rename(temporary, target);
  }
  sync_path(checkpoints);
  replace_file(checkpoints + "/latest", name + "\n");
}

// Removes the oldest until `keep` are left; those of later steps belong to a past that was left
// behind and go first.
void retain(const std::string& checkpoints, std::int64_t keep, const std::string& newest) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kPrefix) && name.find(kTemporary) == std::string::npos) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  const auto is_later = [&](const std::string& name) { return name > newest; };
  for (const std::string& name : names) {
    if (is_later(name)) fs::remove_all(checkpoints + "/" + name);
  }
  std::erase_if(names, is_later);
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < names.size(); ++i) {
    fs::remove_all(checkpoints + "/" + names[i]);
  }
}

}  // namespace

std::string checkpoint_name(std::int64_t step) {
  return fmt::format("{}{:08}", kPrefix, step);
}

void save_checkpoint(const Config& config, const models::ParameterTable& table, ModelState& model,
                     const CheckpointState& state, comm::Communicator& communicator,
                     core::MemoryTracker& memory, core::Logger& log) {
  const bool writes = communicator.rank() == 0;
  const std::string checkpoints = config.run.output + "/checkpoints";
  const std::string name = checkpoint_name(state.step);
  const std::string temporary = fmt::format("{}/{}{}{}", checkpoints, name, kTemporary, getpid());
  agree(communicator, "checkpoint", [&] {
    if (!writes) return;
    remove_leftovers(checkpoints);
    check_space(checkpoints, table, model.state_tensors());
    fs::create_directory(temporary);
  });
  StateCollector collector(model, communicator, memory);
  const auto path_of = [&](const char* file) {
    return writes ? temporary + "/" + file : std::string();
  };
  const WrittenFile weights = write_model_file(path_of(kModelFile), config.model, table, collector);
  const WrittenFile states = write_optimizer_file(path_of(kOptimizerFile), table, model, collector);
  agree(communicator, "checkpoint", [&] {
    if (!writes) return;
    publish(
        temporary, checkpoints, name, state,
        {{kModelFile, weights.bytes, weights.hash}, {kOptimizerFile, states.bytes, states.hash}},
        config);
    retain(checkpoints, config.checkpoint.keep, name);
    log.info("checkpoint", "saved {}/{}", checkpoints, name);
  });
}

}  // namespace lockstep::runtime
