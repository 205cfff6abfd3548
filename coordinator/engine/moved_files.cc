#include <filesystem>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/engine/attempt_files.h"
#include "coordinator/model/run_json.h"
#include "coordinator/store/store.h"
#include "core/error.h"
#include "runtime/files/write_file.h"

// The files of runs that are deleted or put into the archive. Paths are made of ids of the server
// alone.
namespace lockstep::coordinator {
namespace {

namespace fs = std::filesystem;

std::string run_directory(const EngineOptions& options, const std::string& run) {
  return fmt::format("{}/runs/{}", options.state_directory, run);
}

}  // namespace

std::string moved_files(const EngineOptions& options, const std::string& run, const char* place) {
  return fmt::format("{}/{}/{}", options.state_directory, place, run);
}

void move_run_files(const EngineOptions& options, const std::string& run, const char* place) {
  const std::string from = run_directory(options, run);
  std::error_code error;
  if (!fs::exists(from, error)) return;
  const std::string to = moved_files(options, run, place);
  fs::create_directories(fs::path(to).parent_path(), error);
  if (!error) fs::permissions(fs::path(to).parent_path(), fs::perms::owner_all, error);
  if (!error) fs::rename(from, to, error);
  if (error) {
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("cannot move {} to {}: {}", from, to, error.message()));
  }
}

void bring_run_files_back(const EngineOptions& options, const std::string& run,
                          const char* place) noexcept {
  std::error_code error;
  fs::rename(moved_files(options, run, place), run_directory(options, run), error);
}

std::vector<std::string> moved_runs(const EngineOptions& options, const char* place) {
  std::vector<std::string> runs;
  std::error_code error;
  for (const auto& entry :
       fs::directory_iterator(fmt::format("{}/{}", options.state_directory, place), error))
    runs.push_back(entry.path().filename().string());
  return runs;
}

void remove_trash(const EngineOptions& options) noexcept {
  std::error_code error;
  for (const std::string& run : moved_runs(options, kTrash))
    fs::remove_all(moved_files(options, run, kTrash), error);
}

void remove_logs(const EngineOptions& options, const AttemptRef& attempt) {
  std::error_code error;
  fs::remove_all(attempt_directory(options.state_directory, attempt) + "/logs", error);
}

void write_archive(const EngineOptions& options, const RunRecord& record, const Store& store) {
  if (!write_record_file(options, record, true)) {
    throw core::Error(core::ErrorKind::kData, "cannot write the record of run " + record.run.id);
  }
  std::string lines;
  for (const Event& event : store.events(record.run.id, 0, std::numeric_limits<int>::max())) {
    lines += canonical_text({{"sequence", event.sequence},
                             {"run_sequence", event.run_sequence},
                             {"kind", to_string(event.kind)},
                             {"time_ns", event.time_ns},
                             {"actor", event.actor},
                             {"context", event.context}}) +
             "\n";
  }
  runtime::replace_file(run_directory(options, record.run.id) + "/events.jsonl", lines);
}

}  // namespace lockstep::coordinator
