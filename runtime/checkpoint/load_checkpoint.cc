#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/input_file.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_directory.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/checkpoint/model_file.h"
#include "runtime/checkpoint/optimizer_file.h"
#include "runtime/config/load_config.h"
#include "runtime/optimizer/optimizer_states.h"

namespace lockstep::runtime {

namespace fs = std::filesystem;

namespace {

ParsedManifest parse(const std::string& directory) {
  const std::string path = directory + "/" + kManifestFile;
  return parse_manifest(core::read_text(path), path);
}

// What every checkpoint of its kind holds.
std::vector<std::string> needed_files(const CheckpointState& state) {
  std::vector<std::string> names = {kModelFile, kConfigFile};
  for (int r = 0; r < state.world_size; ++r)
    names.push_back(optimizer_file_name(r, state.world_size));
  return names;
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
  return {directory, parse(directory).state, core::read_text(directory + "/" + kConfigFile)};
}

void verify_checkpoint(const CheckpointManifest& manifest) {
  const ParsedManifest parsed = parse(manifest.directory);
  for (const std::string& needed : needed_files(parsed.state)) {
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

std::string OptimizerChange::describe() const {
  const auto list = [](const std::vector<std::string>& names, const char* one, const char* many) {
    return names.empty()
               ? std::string()
               : fmt::format("{} {}", fmt::join(names, " and "), names.size() == 1 ? one : many);
  };
  const std::string first = list(begun, "begins at 0", "begin at 0");
  const std::string second = list(dropped, "is dropped", "are dropped");
  return first + (first.empty() || second.empty() ? "" : "; ") + second;
}

OptimizerChange load_checkpoint(const CheckpointManifest& manifest,
                                const models::ParameterTable& table, const Config& config,
                                ModelState& model) {
  const OptimizerConfig before =
      parse_config(manifest.config_yaml, manifest.directory + "/" + kConfigFile).optimizer;
  const auto saved = state_names(before);
  const auto wanted = state_names(config.optimizer);
  OptimizerChange change;
  std::vector<int> sources;
  for (const std::string_view name : wanted) {
    const auto at = std::find(saved.begin(), saved.end(), name);
    sources.push_back(at == saved.end() ? kNoSource : static_cast<int>(at - saved.begin()));
    (at == saved.end() ? change.begun : change.kept).emplace_back(name);
  }
  for (const std::string_view name : saved) {
    if (std::find(wanted.begin(), wanted.end(), name) == wanted.end())
      change.dropped.emplace_back(name);
  }
  read_model_file(manifest.directory + "/" + kModelFile, config.model, table, model);
  std::vector<std::string> shards;
  for (int r = 0; r < manifest.state.world_size; ++r) {
    shards.push_back(manifest.directory + "/" + optimizer_file_name(r, manifest.state.world_size));
  }
  read_optimizer_files(shards, sources, table, model);
  return change;
}

bool belongs_to(const CheckpointManifest& manifest, const std::string& output) {
  std::error_code failure;
  const fs::path parent = fs::path(manifest.directory + "/.").parent_path().parent_path();
  return fs::equivalent(parent, fs::path(output) / "checkpoints", failure) && !failure;
}

namespace {

void pass_over(const std::string& path, const std::string& why, core::Logger& log) {
  log.warning("resume", "passing over {}: {}", path, why);
}

// Steps of the directories that are named like checkpoints, greatest first.
std::vector<std::int64_t> steps_in(const std::string& checkpoints, core::Logger& log) {
  std::vector<std::int64_t> steps;
  for (const std::string& name : list_entries(checkpoints)) {
    if (const auto step = step_of_name(name)) {
      steps.push_back(*step);
    } else if (name.find(kTemporaryMark) != std::string::npos) {
      pass_over(checkpoints + "/" + name, "it was never finished", log);
    } else if (name.starts_with("step-")) {
      pass_over(checkpoints + "/" + name, "expected a name like step-00000100", log);
    }
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::optional<CheckpointManifest> whole_checkpoint(const std::string& path, std::int64_t step,
                                                   core::Logger& log) {
  try {
    CheckpointManifest manifest = read_manifest(path);
    verify_checkpoint(manifest);
    if (manifest.state.step == step) return manifest;
    pass_over(path, fmt::format("its manifest is of step {}", manifest.state.step), log);
  } catch (const core::Error& error) {
    pass_over(path, error.what(), log);
  }
  return std::nullopt;
}

}  // namespace

std::optional<CheckpointManifest> newest_whole_checkpoint(
    const std::string& output, core::Logger& log, Wanted wanted,
    const std::function<bool(const CheckpointManifest&)>& fits) {
  const std::string checkpoints = output + "/checkpoints";
  const Rollbacks rollbacks = read_rollbacks(output);
  std::optional<CheckpointManifest> newest;  // whole, but not followed by good steps
  for (const std::int64_t step : steps_in(checkpoints, log)) {
    auto found = whole_checkpoint(checkpoints + "/" + checkpoint_name(step), step, log);
    if (!found) continue;
    if (is_given_up(rollbacks, found->state.decision.rollbacks.size(), step)) {
      pass_over(found->directory, "the run has gone back to an earlier step since", log);
      continue;
    }
    if (fits && !fits(*found)) {
      pass_over(found->directory,
                "metrics.jsonl and ledger.jsonl do not reach it, or tell another past", log);
      continue;
    }
    if (wanted == Wanted::kWhole || is_healthy(found->directory)) return found;
    pass_over(found->directory, "the run diverged before enough good steps had followed it", log);
    if (!newest && wanted == Wanted::kHealthy) newest = std::move(found);
  }
  if (newest) {
    log.warning("resume", "no checkpoint was followed by good steps: taking {}", newest->directory);
  }
  return newest;
}

std::optional<CheckpointManifest> checkpoint_to_continue(const std::string& output,
                                                         core::Logger& log, Wanted wanted) {
  std::string newest_other;
  auto found = newest_whole_checkpoint(output, log, wanted, [&](const CheckpointManifest& each) {
    if (is_past_of(output, each.state.position)) return true;
    if (newest_other.empty()) newest_other = each.directory;
    return false;
  });
  if (found || newest_other.empty()) return found;
  throw core::Error(
      core::ErrorKind::kData,
      fmt::format("--resume auto: expected a checkpoint of the past that {0}/metrics.jsonl and "
                  "{0}/ledger.jsonl tell, found only others, the newest {1}; continue from one by "
                  "--resume PATH into another run.output, or restore the two files",
                  output, newest_other));
}

std::vector<CheckpointAge> unproven_checkpoints(const std::string& output, std::int64_t step) {
  const std::string checkpoints = output + "/checkpoints";
  std::vector<CheckpointAge> ages;
  for (const std::string& name : list_entries(checkpoints)) {
    const auto found = step_of_name(name);
    const std::string path = checkpoints + "/" + name;
    if (!found || *found > step || is_healthy(path)) continue;
    try {
      ages.push_back({*found, parse(path).state.decision.applied_steps});
    } catch (const core::Error&) {
      // Not whole: nothing to go back to.
    }
  }
  std::sort(ages.begin(), ages.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return ages;
}

}  // namespace lockstep::runtime
