#pragma once

#include <string>

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

// How the newest attempt of this record is to be started.
LaunchSpec launch_spec(const EngineOptions& options, const RunRecord& record);

}  // namespace lockstep::coordinator
