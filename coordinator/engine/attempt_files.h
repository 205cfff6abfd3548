#pragma once

#include <string>
#include <vector>

#include "coordinator/attempts/attempt_host.h"
#include "coordinator/engine/engine.h"

// What the engine itself writes below STATE/runs/ID: config.yaml, which the ranks read, and the
// secret of each attempt's agent. Paths are made of ids and numbers of the server alone.
namespace lockstep::coordinator {

std::string config_file(const EngineOptions& options, const std::string& run);
std::string token_file(const EngineOptions& options, const AttemptRef& attempt);

// Both throw core::Error(kData). The token file has mode 0600; an old one is replaced.
void write_config_file(const EngineOptions& options, const Run& run);
void write_token_file(const EngineOptions& options, const AttemptRef& attempt,
                      const std::string& secret);
void remove_token_file(const EngineOptions& options, const AttemptRef& attempt) noexcept;

// STATE/runs/ID/record.json: the run as the store has it, so that its attempt can be found again
// should the store be lost. False if it could not be written, which changes nothing.
bool write_record_file(const EngineOptions& options, const RunRecord& record, bool synced) noexcept;
// Throws core::Error(kData) that says what is not whole.
RunRecord read_record_file(const EngineOptions& options, const std::string& run);

// Where the files of a run go that is deleted, below STATE: to be removed, or to be kept.
inline constexpr const char* kTrash = "trash";
inline constexpr const char* kArchive = "archive";
// STATE/PLACE/ID. move throws core::Error(kData); a run without files has none to move.
std::string moved_files(const EngineOptions& options, const std::string& run, const char* place);
void move_run_files(const EngineOptions& options, const std::string& run, const char* place);
void bring_run_files_back(const EngineOptions& options, const std::string& run,
                          const char* place) noexcept;
std::vector<std::string> moved_runs(const EngineOptions& options, const char* place);
void remove_trash(const EngineOptions& options) noexcept;
// logs/ of an attempt.
void remove_logs(const EngineOptions& options, const AttemptRef& attempt);
// What the store has of a run, beside its files: record.json and events.jsonl. Throws
// core::Error(kData).
void write_archive(const EngineOptions& options, const RunRecord& record, const Store& store);

// How the newest attempt of this record is to be started.
LaunchSpec launch_spec(const EngineOptions& options, const RunRecord& record);

}  // namespace lockstep::coordinator
