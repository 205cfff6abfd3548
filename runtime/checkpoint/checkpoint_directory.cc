#include "runtime/checkpoint/checkpoint_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "runtime/files/write_file.h"

namespace lockstep::runtime {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPrefix = "step-";
constexpr std::size_t kLeastDigits = 8;
constexpr std::size_t kMostDigits = 18;

[[noreturn]] void fail(const std::string& what, const std::error_code& reason) {
  throw core::Error(core::ErrorKind::kData,
                    fmt::format("cannot {}: {}; free space, mend the disk or change run.output",
                                what, reason.message()));
}

constexpr double kMiB = 1 << 20;

// What a checkpoint takes: 5 % and a mebibyte for headers and the other files.
std::uint64_t bytes_needed(const PlannedCheckpoint& planned) {
  return planned.tensor_bytes + planned.tensor_bytes / 20 + (1U << 20);
}

bool has_room(const std::string& directory, const PlannedCheckpoint& planned) {
  std::error_code failure;
  const fs::space_info space = fs::space(directory, failure);
  return failure || space.available >= bytes_needed(planned);
}

std::uint64_t bytes_below(const std::string& directory) {
  std::uint64_t bytes = 0;
  for (const std::string& name : list_entries(directory)) {
    std::error_code failure;
    const std::uintmax_t size = fs::file_size(directory + "/" + name, failure);
    if (!failure) bytes += size;
  }
  return bytes;
}

[[noreturn]] void fail_for_room(const std::string& checkpoints, const PlannedCheckpoint& planned) {
  std::vector<std::string> may_go;
  for (const std::string& name : list_entries(checkpoints)) {
    if (!step_of_name(name)) continue;
    const std::string path = checkpoints + "/" + name;
    may_go.push_back(fmt::format("{}{} ({:.2f} MiB)", name, is_healthy(path) ? ", healthy" : "",
                                 static_cast<double>(bytes_below(path)) / kMiB));
  }
  std::sort(may_go.begin(), may_go.end());
  std::error_code ignored;
  const fs::space_info space = fs::space(checkpoints, ignored);
  throw core::Error(
      core::ErrorKind::kData,
      fmt::format("no room for a checkpoint in {}: expected at least {:.2f} MiB free, found {:.2f} "
                  "MiB; {}free some space, or change run.output",
                  checkpoints, static_cast<double>(bytes_needed(planned)) / kMiB,
                  static_cast<double>(space.available) / kMiB,
                  may_go.empty() ? ""
                                 : fmt::format("what may go there, but for the one to resume from: "
                                               "{}; ",
                                               fmt::join(may_go, "; "))));
}

void rename_path(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) == 0) return;
  fail(fmt::format("rename {} to {}", from, to), {errno, std::generic_category()});
}

void remove_tree(const std::string& path) {
  std::error_code failure;
  fs::remove_all(path, failure);
  if (failure) fail("remove " + path, failure);
}

// A checkpoint loses its name first, so that no half removed one can be taken for one.
void remove_checkpoint(const std::string& path) {
  const std::string doomed = fmt::format("{}{}removed-{}", path, kTemporaryMark, getpid());
  rename_path(path, doomed);
  remove_tree(doomed);
}

// Puts a finished directory in the place of an earlier attempt's, whose steps were computed again:
// in one go, so that one of the two has the name at every moment, or, where the file system cannot
// do that, in two.
void replace_directory(const std::string& finished, const std::string& target) {
  if (renameat2(AT_FDCWD, finished.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
    remove_tree(finished);
    return;
  }
  const std::string replaced = fmt::format("{}{}replaced-{}", target, kTemporaryMark, getpid());
  rename_path(target, replaced);
  try {
    rename_path(finished, target);
  } catch (const core::Error&) {
    rename_path(replaced, target);
    throw;
  }
  remove_tree(replaced);
}

std::string healthy_file(const std::string& checkpoint) {
  return checkpoint + "/healthy";
}

}  // namespace

std::string checkpoint_name(std::int64_t step) {
  return fmt::format("{}{:08}", kPrefix, step);
}

std::optional<std::int64_t> step_of_name(const std::string& name) {
  const std::string prefix = kPrefix;
  if (!name.starts_with(prefix)) return std::nullopt;
  const std::string digits = name.substr(prefix.size());
  const bool all_digits =
      std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (digits.size() < kLeastDigits || digits.size() > kMostDigits || !all_digits) {
    return std::nullopt;
  }
  const std::int64_t step = std::stoll(digits);
  return checkpoint_name(step) == name ? std::optional(step) : std::nullopt;
}

std::vector<std::string> list_entries(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code failure;
  fs::directory_iterator entry(directory, failure);
  if (failure == std::errc::no_such_file_or_directory) return names;
  while (!failure && entry != fs::directory_iterator()) {
    names.push_back(entry->path().filename().string());
    entry.increment(failure);
  }
  if (failure) fail("read the directory " + directory, failure);
  return names;
}

void begin_temporary(const std::string& checkpoints, const std::string& temporary,
                     const PlannedCheckpoint& planned) {
  for (const std::string& name : list_entries(checkpoints)) {
    if (name.find(kTemporaryMark) != std::string::npos) remove_tree(checkpoints + "/" + name);
  }
  if (!has_room(checkpoints, planned) && planned.keep > 1)
    retain(checkpoints, planned.keep - 1, planned.step);
  if (!has_room(checkpoints, planned)) fail_for_room(checkpoints, planned);
  std::error_code failure;
  fs::create_directory(temporary, failure);
  if (failure) fail("create " + temporary, failure);
}

void remove_temporary(const std::string& temporary) noexcept {
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
}

void publish(const std::string& checkpoints, const std::string& temporary,
             const CheckpointState& state, std::vector<ManifestFile> files,
             const std::string& config_yaml) {
  write_synced(temporary + "/" + kConfigFile, config_yaml);
  files.push_back(describe_file(temporary, kConfigFile));
  write_synced(temporary + "/" + kManifestFile, manifest_text(state, files));
  sync_path(temporary);
  const std::string name = checkpoint_name(state.step);
  const std::string target = checkpoints + "/" + name;
  std::error_code failure;
  const bool taken = fs::exists(target, failure);
  if (failure) fail("look at " + target, failure);
  if (taken) {
    replace_directory(temporary, target);
  } else {
    rename_path(temporary, target);
  }
  sync_path(checkpoints);
  replace_file(checkpoints + "/latest", name + "\n");
}

bool is_healthy(const std::string& checkpoint) {
  std::error_code ignored;
  return fs::is_regular_file(healthy_file(checkpoint), ignored);
}

void mark_healthy(const std::string& checkpoint, std::int64_t promoted_at_step) {
  std::error_code ignored;
  if (!fs::is_directory(checkpoint, ignored)) return;
  replace_file(healthy_file(checkpoint),
               fmt::format("{{\"version\":1,\"promoted_at_step\":{}}}\n", promoted_at_step));
}

void retain(const std::string& checkpoints, std::int64_t keep, std::int64_t newest) {
  std::vector<std::int64_t> steps;
  for (const std::string& name : list_entries(checkpoints)) {
    if (const auto step = step_of_name(name)) steps.push_back(*step);
  }
  std::sort(steps.rbegin(), steps.rend());
  std::int64_t kept = 0;
  bool seen_healthy = false;
  for (const std::int64_t step : steps) {
    const std::string path = checkpoints + "/" + checkpoint_name(step);
    if (step > newest) {
      remove_checkpoint(path);
      continue;
    }
    const bool newest_healthy = !seen_healthy && is_healthy(path);
    seen_healthy = seen_healthy || newest_healthy;
    if (kept < keep) {
      kept += 1;
    } else if (!newest_healthy) {
      remove_checkpoint(path);
    }
  }
}

}  // namespace lockstep::runtime
