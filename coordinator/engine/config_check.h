#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/engine/engine_error.h"

namespace lockstep::coordinator {

struct CheckedConfig {
  std::string name;             // run.name
  std::string output;           // run.output
  std::string device_kind;      // of the slots it needs: "cpu", "gpu", or empty: any
  std::string resolved_config;  // YAML
  std::int64_t memory_bytes_per_rank = 0;
  std::string memory_table;
};

// Which of the files that a configuration names must be there, and right as far as opening them tells.
enum class FilesToFind : std::uint8_t {
  kNone,
  kData,  // data.train, data.validation
  kAll,   // and model.init_from
};

// Everything that `lockstep train` would find wrong before it starts. Throws
// EngineError(INVALID_ARGUMENT, INVALID_CONFIG) with a violation of run.config_yaml for each
// problem: "SOURCE:LINE:COLUMN: key: what is wrong".
CheckedConfig check_config(const std::string& yaml, const std::string& source,
                           const std::vector<std::string>& overrides, int ranks,
                           FilesToFind files = FilesToFind::kNone);

// Whether an output directory holds a run, as `lockstep train --resume never` sees it.
bool holds_run(const std::string& output);

}  // namespace lockstep::coordinator
