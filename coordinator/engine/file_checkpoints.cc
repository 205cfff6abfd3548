#include "coordinator/engine/file_checkpoints.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "core/error.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_directory.h"

namespace lockstep::coordinator {
namespace {

namespace fs = std::filesystem;

std::string checkpoints_of(const std::string& output) {
  return output + "/checkpoints";
}

std::int64_t modified_ns(const fs::path& path) {
  std::error_code error;
  const auto time = fs::last_write_time(path, error);
  if (error) return 0;
  const auto system = std::chrono::file_clock::to_sys(time).time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(system).count();
}

std::int64_t bytes_in(const fs::path& directory) {
  std::int64_t bytes = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const auto size = entry.file_size(error);
    if (!error) bytes += static_cast<std::int64_t>(size);
  }
  return bytes;
}

CheckpointInfo look_at(const std::string& directory, std::int64_t step, bool verify) {
  CheckpointInfo info;
  info.step = step;
  info.path = directory;
  info.healthy = runtime::is_healthy(directory);
  info.bytes = bytes_in(directory);
  info.create_time_ns = modified_ns(directory + "/manifest.json");
  try {
    const runtime::CheckpointManifest manifest = runtime::read_manifest(directory);
    if (manifest.state.step != step) {
      info.problem = "its manifest is of another step";
    } else if (verify) {
      runtime::verify_checkpoint(manifest);
      info.verified = true;
    }
  } catch (const core::Error& error) {
    info.problem = error.what();
  }
  return info;
}

}  // namespace

std::optional<CheckpointInfo> FileCheckpoints::newest_verified(const std::string& output) {
  try {
    const auto newest = runtime::newest_whole_checkpoint(output, log_);
    if (!newest) return std::nullopt;
    CheckpointInfo info = look_at(newest->directory, newest->state.step, false);
    info.verified = true;
    return info;
  } catch (const core::Error& error) {
    log_.warning("checkpoints", "{}: {}", output, error.what());
    return std::nullopt;
  }
}

std::optional<CheckpointInfo> FileCheckpoints::verify(const std::string& output,
                                                      std::int64_t step) {
  const std::string directory = checkpoints_of(output) + "/" + runtime::checkpoint_name(step);
  std::error_code error;
  if (!fs::is_directory(directory, error)) return std::nullopt;
  return look_at(directory, step, true);
}

std::vector<CheckpointInfo> FileCheckpoints::list(const std::string& output, bool verify) {
  std::vector<CheckpointInfo> all;
  try {
    for (const std::string& name : runtime::list_entries(checkpoints_of(output))) {
      const auto step = runtime::step_of_name(name);
      if (step) all.push_back(look_at(checkpoints_of(output) + "/" + name, *step, verify));
    }
  } catch (const core::Error& error) {
    log_.warning("checkpoints", "{}: {}", output, error.what());
  }
  std::sort(all.begin(), all.end(),
            [](const CheckpointInfo& a, const CheckpointInfo& b) { return a.step > b.step; });
  return all;
}

}  // namespace lockstep::coordinator
